//! RF07: the owner's desk.

super::codes! {
    WRONG_SECRET = 701, "somebody entered a wrong secret at the owner's desk" {
        cause: "the sign-in form of the owner's desk was submitted with a secret other than [owner] secret",
        consequence: "the desk stays closed, and after several failures it delays the next attempt",
        cure: "nothing if it was you; if somebody else is trying, change [owner] path and set a long random secret",
    }
    FOREIGN_FORM = 702, "a form of the desk does not belong to its session" {
        cause: "the session has ended, or another site made the browser submit a form to the desk",
        consequence: "nothing was done",
        cure: "open the desk again and submit the form from there",
    }
    BAD_RUN_FILE = 703, "a task in tmp/run.txt cannot be started" {
        cause: "tmp/run.txt names no known task, or the task failed to start",
        consequence: "nothing was done; tmp/run.log says why",
        cure: "write one of the tasks that tmp/run.log lists, and upload the file again",
    }
}

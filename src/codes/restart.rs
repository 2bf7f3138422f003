//! RF05: what goes live, and when.

super::codes! {
    SETTINGS_REFUSED = 501, "the new settings are wrong, and the old ones stay" {
        cause: "the settings file was changed and cannot be used: each error follows with its own code",
        consequence: "the site keeps running with the previous settings and code",
        cure: "fix the errors that follow; no restart is needed",
    }
    NOT_CONFIGURED = 502, "the site is not configured" {
        cause: "the settings are missing or cannot be used, and no earlier release is known: the reasons follow",
        consequence: "every request gets an error page",
        cure: "fix what the reasons name; no restart is needed",
    }
    NOT_IMPORTED = 503, "the new code cannot be imported, and the old one stays" {
        cause: "after a change or a touch, the application could not be imported: the traceback follows",
        consequence: "the site keeps running with the previous code",
        cure: "fix what the traceback names, and touch the file again",
    }
    EXECUTABLE_REFUSED = 504, "the new executable cannot be used, and the old one stays" {
        cause: "the uploaded executable is incomplete, not executable, writable by others, or failed its test",
        consequence: "the site keeps running with the previous executable",
        cure: "upload it again, in binary mode, and set its mode to 755",
    }
    NOT_EXECUTED = 505, "the new executable cannot be executed, and the old one stays" {
        cause: "the system refused to execute the program, which had passed its test",
        consequence: "the site keeps running with the previous executable",
        cure: "the message gives the system's reason; upload the executable again",
    }
}

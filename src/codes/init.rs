//! RF08: messages of `init`.

super::codes! {
    NOT_AGREED = 800, "init wrote nothing" {
        cause: "`init` asks before it writes: the answer was no, or there was no terminal to ask on",
        consequence: "nothing in the account was changed",
        cure: "answer y, or run `init --yes`, which asks nothing",
    }
    NO_PROJECT = 801, "init found no project" {
        cause: "there is no manage.py that names its settings, and no module (wsgi.py, app.py, passenger_wsgi.py, main.py, \
                application.py) with a WSGI application, beside the executable or in the two directories above",
        consequence: "nothing is written",
        cure: "name the directory of the project: `init --project DIRECTORY`",
    }
    SEVERAL_PROJECTS = 802, "init found more than one project" {
        cause: "several directories contain a manage.py or a WSGI application, and none of them was chosen",
        consequence: "nothing is written",
        cure: "name the directory of the project: `init --project DIRECTORY`",
    }
    CANNOT_USE = 803, "init cannot use a file or the terminal" {
        cause: "a file cannot be read or written, or its directory belongs to another user, or the disk is full",
        consequence: "this file is unchanged; the files that `init` reported as written stay written",
        cure: "run `init` as the owner of the site, and free space if the message says so",
    }
    BLOCK_UNCLEAR = 804, "init cannot tell its own lines in .htaccess from yours" {
        cause: "`.htaccess` names the executable outside the lines from `# BEGIN runfcgi` to `# END runfcgi`, or one of these \
                two markers is missing or appears twice",
        consequence: "nothing is written, so that none of your lines is lost and no rule is duplicated",
        cure: "remove the older lines for the executable, or put `# BEGIN runfcgi` above and `# END runfcgi` below them",
    }
    UNFIT_NAME = 805, "the executable's name cannot be used" {
        cause: "Apache is configured to run `*.fcgi`, and `.htaccess` and the settings file are tied to the executable's name",
        consequence: "nothing is written",
        cure: "rename the executable to `mysite.fcgi`: letters, digits, `-` and `_`, then `.fcgi`",
    }
    UPLOAD_EXISTS = 806, "the directory for the upload exists" {
        cause: "`init --remote` makes the upload in a directory of its own, and one of that name is there",
        consequence: "nothing is written",
        cure: "name another, `init --remote DIRECTORY`, or add `--yes`: then its files are replaced, but for the settings",
    }
    NOT_PACKED = 807, "the project or its packages could not be packed" {
        cause: "there is no Python with pip here, or pip did not find a wheel of each package for the Python and the platform \
                of the host",
        consequence: "the upload is not complete",
        cure: "follow the message of pip: require another version of the package, or name the host's Python and platform with \
               `--python` and `--platform`; then run `init --remote` with `--yes`",
    }
}

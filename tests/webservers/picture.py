"""Makes the README's picture of the owner's desk: `picture.py BINARY FILE`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from webservers.account import Account, Model
from webservers.apache import Apache
from webservers.chromium import Chromium
from webservers.desk import OWNER, SETTINGS, Owner, log_in
from webservers.processes import until


# New code with a mistake, and views that fail.
FAILING = 'ROOT_URLCONF = "myproject.failing"\nDATABASES["default"]["NAME"] = HOME / "db" / "new.sqlite3"\n'
MISTAKE = 'CACHES = {"default": {"LOCATION": HOEM / "cache"}}\n'


def take(binary, target):
    """The desk of a site whose newest code was refused and whose database is new."""
    model = Model()
    site = Account(model, binary)
    try:
        site.configure(OWNER + SETTINGS)
        settings = site.project / "myproject" / "settings.py"
        good = settings.read_text()
        site.put(settings, good + FAILING)
        with Apache(site) as apache, Chromium() as browser:
            for path in ("/raises/", "/counts_users/"):
                assert apache.client.get(path).status == 500
            owner = Owner(apache.port).open()
            owner.do("check")
            site.put(settings, good + FAILING + MISTAKE)
            site.touch()
            until(lambda: "was refused" in owner.words(), 60, "the new code is refused")
            browser.like(1120, 910)
            log_in(browser, f"http://127.0.0.1:{apache.port}/-/desk")
            # Where the account lies on this machine tells nobody anything.
            browser.evaluate(f"document.body.innerHTML = document.body.innerHTML.replaceAll('{site.base}/', '/')")
            browser.picture(target, whole=False)
    finally:
        site.remove()
        model.remove()


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))

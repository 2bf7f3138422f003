"""The owner's desk behind Apache's mod_fcgid, while the last good settings serve. Where nothing serves: test_forty.py."""

from webservers.apache import Apache
from webservers.desk import OWNER, SECRET, SETTINGS, Owner
from webservers.processes import until


def test_settings_that_became_wrong(site):
    site.configure(OWNER + SETTINGS)
    with Apache(site) as apache:
        owner = Owner(apache.port)
        owner.open()
        assert apache.client.get("/").status == 200
        site.configure(OWNER + SETTINGS + "[limits]\nqueue = 'many'\n")
        until(lambda: "The settings were refused" in owner.words(), 20, "the desk tells that they are wrong")
        assert apache.client.get("/").status == 200
        assert SECRET not in apache.log()

"""Where mysite.toml is found: beside the executable, in the two directories above, where a link stands, where one says.

`PLACES`: cases as in golive_cases.py, by name, each with the kinds of sites that it is for (all, when none is said).
"""

import time

from golive import SHELL, Visitors, in_time, look, overwrite, rename, slowly
from webservers.account import give


def says(site, value):
    return site.text({"env": {"V": value}})


def uploaded(path, text):
    path.touch()
    slowly(path, text)


def nearer(site):
    """The nearest one counts, whenever a file comes there, is changed or goes."""
    far, middle, near = (place / "mysite.toml" for place in (site.home, site.home / "www", site.directory))
    far.write_text(says(site, "far"))
    site.start()
    with Visitors(site, look("V")) as visitors:
        visitors.change(lambda: uploaded(middle, says(site, "middle")), "far", "middle")
        visitors.change(lambda: rename(near, says(site, "near")), "middle", "near")
        overwrite(far, says(site, "far away"))
        visitors.sees_only("near", 2.5)
        visitors.change(lambda: overwrite(near, says(site, "nearer")), "near", "nearer")
        visitors.change(near.unlink, "nearer", "middle")
        visitors.change(middle.unlink, "middle", "far away")


def wrong_nearer(site):
    """One that is wrong is named, and the one above goes on; mended it takes over."""
    (site.home / "mysite.toml").write_text(says(site, "far"))
    site.start()
    with Visitors(site, look("V")) as visitors:
        visitors.all_see("far")
        site.config.write_text(says(site, "near") + "[app\n")
        site.config.chmod(0o664)
        in_time(lambda: f"{site.config}" in site.said() and "0664" in site.said(), 6, "the log names it")
        visitors.sees_only("far", 1)
        rename(site.config, says(site, "near") + "[app\n")
        in_time(lambda: "mysite.toml:1" in site.said(), 6, "the log says what is wrong")
        visitors.sees_only("far", 1)
        visitors.change(lambda: overwrite(site.config, says(site, "near")), "far", "near")


def away_for_a_moment(site):
    """FTP clients delete what they replace. In this moment the one above does not count."""
    (site.home / "mysite.toml").write_text(says(site, "far"))
    site.config.write_text(says(site, "near"))
    site.start()

    def act():
        site.config.unlink()
        time.sleep(0.5)
        site.config.write_text(says(site, "new"))

    with Visitors(site, look("V")) as visitors:
        visitors.change(act, "near", "new")


def told_of(site):
    """Whose settings are used, when they are not those beside the executable."""
    far = site.home / "mysite.toml"
    far.write_text(says(site, "far"))
    site.start()
    site.ask()
    told = {"the log": site.said(), "check": site.command("check"), "status": site.command("status")}
    for name, text in told.items():
        assert str(far) in text and "above" in text, f"{name} does not say that {far} is used:\n{text}"
    site.config.write_text(says(site, "near"))
    in_time(lambda: site.ask().told["V"] == "near", 5, "the nearer one is live")
    for word in ("check", "status"):
        text = site.command(word)
        assert str(far) not in text and "above" not in text, text


def named(site):
    """Only the one that RUNFCGI_CONFIG names."""
    other = site.home / "other.toml"
    other.write_text(says(site, "other"))
    site.config.write_text(says(site, "near"))
    site.start(env={"RUNFCGI_CONFIG": str(other)})
    with Visitors(site, look("V")) as visitors:
        visitors.change(lambda: rename(other, says(site, "changed")), "other", "changed")
        overwrite(site.config, says(site, "nearer"))
        visitors.sees_only("changed", 2.5)


def check_named(site):
    """`check` looks at the file that RUNFCGI_CONFIG names; a word on the command line comes before it."""
    other, third = site.home / "other.toml", site.home / "third.toml"
    other.write_text(site.text({"app": {"setings": "x"}}))
    third.write_text(site.text())
    site.configure()
    where = {"env": {**SHELL, "RUNFCGI_CONFIG": str(other)}}
    told = site.command("check", **where)
    assert "other.toml" in told and "setings" in told, told
    assert "mysite.toml" not in told, told
    told = site.command("check", "--config", str(third), **where)
    assert str(third) in told and "setings" not in told, told


def linked(site):
    """Where the link to the executable stands comes before where the executable itself does."""
    target = site.directory
    site.directory = site.home / "links" / "site"
    site.directory.mkdir(parents=True)
    (target / ".htaccess").rename(site.directory / ".htaccess")
    link, beside = site.directory / "mysite.fcgi", site.directory / "mysite.toml"
    link.symlink_to(site.executable)
    give(site.home / "links")
    (target / "mysite.toml").write_text(says(site, "target"))
    beside.write_text(says(site, "link"))
    site.start(link)
    with Visitors(site, look("V")) as visitors:
        visitors.change(lambda: overwrite(beside, says(site, "changed")), "link", "changed")
        visitors.change(beside.unlink, "changed", "target")
        visitors.change(lambda: beside.write_text(says(site, "link")), "target", "link")
    site.executable = link
    assert str(beside) in site.command("check")


PLACES = {
    "nearer settings": (nearer,),
    "nearer settings that are wrong": (wrong_nearer,),
    "settings away for a moment": (away_for_a_moment,),
    "whose settings are told": (told_of,),
    "settings that are named": (named, ("prefork", "threaded")),
    "check of settings that are named": (check_named, ("prefork",)),
    "a link to the executable": (linked,),
}

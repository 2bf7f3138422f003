"""Web servers that Debian has no package of, played by us: mod_fastcgi, Cherokee, OpenLiteSpeed.

`front` is their HTTP side and `wire` their FastCGI side. Each server has a module that reads the very file of deploy/,
refuses what it does not understand in it, starts the program as that server does, and says how it speaks.
"""

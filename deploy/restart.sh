#!/bin/bash
# Ends the site's server, if it runs, and starts it again in the background.
#
# Requests in hand are finished by the old process; between the two there is a moment in which nobody listens. To put new
# code live without that moment, touch mysite.fcgi or send the running one a signal: kill -HUP "$(cat mysite.pid)".

# These three are yours to change.
PROJDIR="/home/user/myproject"
PIDFILE="$PROJDIR/mysite.pid"
SOCKET="$PROJDIR/mysite.sock"

cd -- "$PROJDIR" || exit 1
if [ -f "$PIDFILE" ]; then
    kill -- "$(cat -- "$PIDFILE")"
    rm -f -- "$PIDFILE"
fi

# A clean environment, whoever calls this script. Relative parts of PYTHONPATH count from [app] path.
exec /usr/bin/env - \
    PYTHONPATH="../python:.." \
    ./mysite.fcgi runfcgi socket="$SOCKET" pidfile="$PIDFILE"

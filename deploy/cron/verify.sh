#!/bin/sh
# Checks a crontab for the tick without installing it: verify.sh [FILE]. Exits 1 and names the line of each mistake.
set -eu
file=${1:-$(dirname "$0")/backbeat.crontab}

awk -v file="$file" '
function wrong(why) { printf "%s:%d: %s\n", file, NR, why > "/dev/stderr"; bad = 1 }
function number_after(text,   at) {
    at = index($0, text)
    return at ? substr($0, at + length(text)) + 0 : 0
}
/^[ \t]*(#|$)/ || /^[A-Za-z_][A-Za-z0-9_]*[ \t]*=/ { next }
{
    jobs++
    for (i = 1; i <= 5; i++) if ($i !~ /^[0-9*,\/-]+$/) wrong("field " i " is no time: " $i)
    if (index($0, "%")) wrong("cron reads % as the end of the line")
    if (!index($0, "flock -n -E 75 /")) wrong("no flock -n -E 75 /absolute/path: ticks pile up on a slow host")
    if ($0 !~ / \/[^ ]*\/cron-worker tick /) wrong("cron-worker needs its absolute path")
    limit = number_after("timeout -k 5 "); needed = number_after("--budget ") + number_after("--grace ") + 5
    if (index($0, " --every ")) { if (limit) wrong("timeout would end a worker that beats by itself") }
    else if (limit != needed) wrong("timeout is " limit " s, budget + grace + 5 is " needed " s")
}
END {
    if (!jobs) wrong("no line starts a tick")
    exit bad
}' "$file"

if [ -n "$(tail -c 1 "$file")" ]; then
    echo "$file: the last line does not end; cron would refuse it" >&2
    exit 1
fi

# Only Debian's crontab has -n for a dry run; elsewhere the letter means something else.
if [ -e /etc/debian_version ] && command -v crontab >/dev/null; then
    said=$(crontab -n "$file" 2>&1) || { echo "$said" >&2; exit 1; }
    echo "$file: correct, says crontab -n too"
else
    echo "$file: correct; crontab -n skipped: Debian's package cron is not installed here"
fi

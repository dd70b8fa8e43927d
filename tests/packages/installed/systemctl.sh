#!/bin/sh
# Stands in for systemctl where no systemd runs: the state of a unit is a file of its name in /run/units with one line,
# ActiveState and UnitFileState, such as "active enabled".
cd /run/units || exit 1
command=$1
shift
while [ "${1#-}" != "$1" ]; do
    [ "$1" = -P ] && property=$2 && shift
    shift
done
for unit in "$@"; do
    active=inactive
    enabled=disabled
    [ ! -e "$unit" ] || read -r active enabled <"$unit"
    case $command in
        show) [ "$property" != ActiveState ] || echo "$active" ;;
        is-active) [ "$active" = active ] || exit 3 ;;
        is-failed) exit 1 ;;
        stop) [ ! -e "$unit" ] || echo "inactive $enabled" >"$unit" ;;
        start)
            [ "$enabled" != masked ] || exit 1
            echo "active $enabled" >"$unit"
            ;;
        try-restart) ;;
        unmask) echo "$active disabled" >"$unit" ;;
        enable) echo "$active enabled" >"$unit" ;;
        list-units) for path in $unit; do [ ! -e "$path" ] || echo "$path loaded"; done ;;
    esac
done

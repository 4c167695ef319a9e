#!/usr/bin/env bash
# A real systemd for tests: PID 1 of its own namespaces, on a throw-away overlay of this machine.
#
#   booted_systemd.sh up NAME [NSPAWN-OPTION ...]    start, and wait until it is running
#   booted_systemd.sh exec NAME COMMAND [ARG ...]    run a command in it
#   booted_systemd.sh root NAME                      print where its root can be reached from here
#   booted_systemd.sh down NAME                      power off and remove every trace
#
# Needs root, systemd-container, and control groups mounted as on Debian 10 or in a container host's
# hybrid layout (/sys/fs/cgroup/<controller> and /sys/fs/cgroup/unified).
set -euo pipefail
. "$(dirname "$0")/booted_root.sh"

# Not cpuset: a new group of it takes no process before it is given processors.
CONTROLLERS="memory pids cpu cpuacct devices blkio freezer"

inside() { # inside PID COMMAND ...: in all namespaces of the process
  local pid=$1
  shift
  nsenter -t "$pid" -m -u -i -n -p -C -- "$@"
}

leader() { cat "$STATE/$1/leader"; }

own_group() { # own_group CONTROLLER: where we are in that hierarchy ("" is the unified one)
  awk -F: -v c="$1" '{ n = split($2, names, ",")
    if (c == "" && $2 == "") print $3
    for (i = 1; i <= n; i++) if (names[i] == c || names[i] == "name=" c) print $3 }' /proc/self/cgroup
}

make_groups() { # a group of its own in each hierarchy, below where we are now; their paths, one a line
  local c place
  for c in $CONTROLLERS systemd ""; do
    place=/sys/fs/cgroup/${c:-unified}
    mountpoint -q "$place" || continue
    place=$(realpath -ms "$place$(own_group "$c")/i2vd-$1")
    mkdir -p "$place"
    echo "$place"
  done
}

up() {
  local name=$1 folder=$STATE/$1 nspawn pid="" i
  shift
  mkdir -p "$folder/fs"
  make_groups "$name" > "$folder/groups"
  setsid unshare -m --propagation private "$0" _become "$name" "$@" \
    > "$folder/log" 2>&1 < /dev/null &
  nspawn=$!
  echo "$nspawn" > "$folder/nspawn"
  for i in $(seq 500); do # until nspawn's child is systemd
    alive "$nspawn" || { cat "$folder/log" >&2; remove "$name"; return 1; }
    for pid in $(cat /proc/"$nspawn"/task/*/children 2> /dev/null); do
      [ "$(cat "/proc/$pid/comm" 2> /dev/null)" = systemd ] && break 2
    done
    pid=""
    sleep 0.02
  done
  [ -n "$pid" ] || { echo "systemd was not started" >&2; down "$name"; return 1; }
  echo "$pid" > "$folder/leader"
  for i in $(seq 600); do
    case $(inside "$pid" systemctl is-system-running 2> /dev/null || true) in
      running | degraded) return 0 ;;
    esac
    sleep 0.05
  done
  cat "$folder/log" >&2
  echo "systemd did not come up" >&2
  down "$name"
  return 1
}

_become() { # in a mount namespace of its own: make the root folder, then become systemd-nspawn
  local name=$1 fs=$STATE/$1/fs root=$STATE/$1/fs/root group
  shift
  while read -r group; do echo $$ > "$group/cgroup.procs"; done < "$STATE/$name/groups"
  make_root "$fs"
  mount -t tmpfs tmpfs /run # nspawn's own, not the machine's
  cat > "$root/preinit" << 'END'
#!/bin/sh
# PID 1 for a moment: let systemd write the controllers of its own group (MemoryMax, DeviceAllow).
for place in /sys/fs/cgroup /sys/fs/cgroup/memory /sys/fs/cgroup/pids /sys/fs/cgroup/cpu \
  /sys/fs/cgroup/cpuacct /sys/fs/cgroup/devices /sys/fs/cgroup/blkio /sys/fs/cgroup/freezer; do
  mount -o remount,rw,bind "$place"
done
exec /lib/systemd/systemd
END
  chmod 755 "$root/preinit"
  exec systemd-nspawn --quiet --register=no --keep-unit --kill-signal=SIGRTMIN+3 \
    --directory="$root" --machine="$name" --console=pipe --link-journal=no --resolv-conf=off \
    --timezone=off --capability=all --system-call-filter=bpf "$@" /preinit
}

down() {
  local nspawn i
  nspawn=$(cat "$STATE/$1/nspawn")
  if alive "$nspawn" && [ -e "$STATE/$1/leader" ]; then
    inside "$(leader "$1")" systemctl poweroff 2> /dev/null || true
  fi
  for i in $(seq 150); do
    alive "$nspawn" || break
    sleep 0.1
  done
  if alive "$nspawn"; then
    [ ! -e "$STATE/$1/leader" ] || kill -9 "$(leader "$1")" || true
    kill -9 "$nspawn" || true
    sleep 0.2
  fi
  remove "$1"
}

remove() {
  local group i
  while read -r group; do
    for i in $(seq 20); do
      find "$group" -depth -type d -exec rmdir {} + 2> /dev/null || true
      [ -d "$group" ] || break
      sleep 0.05
    done
  done < <(tac "$STATE/$1/groups")
  rm -rf "${STATE:?}/$1"
}

execute() { inside "$(leader "$1")" "${@:2}"; }

root() { echo "/proc/$(leader "$1")/root"; }

dispatch "$@"

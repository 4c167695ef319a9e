#!/usr/bin/env bash
# A machine with a kernel of its own for tests, which has what this machine's may lack: NFS. It is
# user-mode Linux, an ordinary process, with systemd on a throw-away overlay of this machine.
#
#   booted_kernel.sh up NAME NETNS DEVICE ADDRESS [SOURCE:TARGET ...]
#                                                  start, its card being a tap device in a namespace,
#                                                  with folders of this machine, read only
#   booted_kernel.sh exec NAME COMMAND [ARG ...]   run a command in it, by its network
#   booted_kernel.sh here NAME COMMAND [ARG ...]   the same by this machine's kernel: ten times as fast
#   booted_kernel.sh root NAME                     print where its root can be reached from here
#   booted_kernel.sh down NAME                     power off and remove every trace
#
# Needs root, user-mode-linux and kmod.
set -euo pipefail
. "$(dirname "$0")/booted_root.sh"

SHELL_PORT=514

up() {
  local name=$1 space=$2 device=$3 address=$4 folder=$STATE/$1 i
  shift 4
  mkdir -p "$folder/fs"
  echo "$space" > "$folder/space"
  echo "$address" > "$folder/address"
  setsid unshare -m --propagation private "$0" _become "$name" "$space" "$device" \
    "$address" "$@" > "$folder/log" 2>&1 < /dev/null &
  echo $! > "$folder/leader"
  for i in $(seq 600); do
    alive "$(cat "$folder/leader")" || break
    case $(execute "$name" systemctl is-system-running 2> /dev/null || true) in
      running | degraded) return 0 ;;
    esac
    sleep 0.1
  done
  cat "$folder/log" >&2
  echo "it did not come up" >&2
  down "$name"
  return 1
}

_become() { # in a mount namespace of its own: make the root folder, then become the kernel
  local name=$1 space=$2 device=$3 address=$4 root=$STATE/$1/fs/root folder units
  shift 4
  make_root "$STATE/$name/fs"
  for folder in /proc:/proc /dev:/dev "$@"; do # the first two for `here`; the kernel has its own
    mkdir -p "$root${folder#*:}"
    mount --bind -o ro "${folder%%:*}" "$root${folder#*:}"
  done
  units=$root/etc/systemd/system
  mkdir -p "$root/lib/modules"
  ln -sfn /usr/lib/uml/modules/* "$root/lib/modules/"
  echo "$device" > "$root/etc/hostname"
  echo "$address $device" >> "$root/etc/hosts"
  # What other users than root write: on the root folder, which is ours, it would belong to root.
  mkdir -p "$root/var/lib/i2vd"
  printf 'tmpfs %s tmpfs mode=%s 0 0\n' > "$root/etc/fstab" \
    /tmp 1777 /var/tmp 1777 /var/cache 755 /var/lib/i2vd 755
  cat > "$units/wire.service" << END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip addr add $address/24 dev vec0
ExecStart=ip link set vec0 up
END
  cat > "$units/shell.socket" << END
[Unit]
DefaultDependencies=no
Wants=wire.service
After=wire.service
[Socket]
ListenStream=$address:$SHELL_PORT
Accept=yes
END
  cat > "$units/shell@.service" << 'END'
[Unit]
DefaultDependencies=no
[Service]
ExecStart=bash
StandardInput=socket
StandardError=journal
END
  mkdir -p "$units/sysinit.target.wants"
  ln -s ../shell.socket "$units/sysinit.target.wants/"
  exec nsenter --net="/run/netns/$space" linux.uml umid="i2vd-$name" mem=1G \
    rootfstype=hostfs rootflags="$root" rw init=/lib/systemd/systemd con=null con0=null,fd:1 \
    systemd.unified_cgroup_hierarchy=1 vec0:transport=tap,ifname="$device",depth=128,gro=1
}

execute() { # execute NAME COMMAND ...: what it prints, and its exit code
  local name=$1 said
  shift
  said=$(nsenter --net="/run/netns/$(cat "$STATE/$name/space")" timeout 300 bash -c '
    exec 3<> "/dev/tcp/$0/$1"
    printf "%s" "$2" >&3
    cat <&3' "$(cat "$STATE/$name/address")" "$SHELL_PORT" "
trap 'echo; echo \$rc' EXIT; rc=1
error=\$(mktemp); export PATH=$PATH HOME=/root
$(printf '%q ' "$@") < /dev/null 2> \$error; rc=\$?
[ \$rc = 0 ] || cat \$error
rm \$error
exit
")
  printf '%s' "${said%$'\n'*}"
  return "${said##*$'\n'}"
}

here() {
  local name=$1
  shift
  nsenter -t "$(cat "$STATE/$name/leader")" -m -- chroot "$STATE/$name/fs/root" "$@"
}

down() {
  local leader i
  leader=$(cat "$STATE/$1/leader")
  if alive "$leader"; then
    execute "$1" systemctl poweroff > /dev/null 2>&1 || true
  fi
  for i in $(seq 100); do
    alive "$leader" || break
    sleep 0.1
  done
  kill -9 -- "-$leader" 2> /dev/null || true # all its processes: setsid made it their leader
  rm -rf "${STATE:?}/$1"
}

root() { echo "/proc/$(cat "$STATE/$1/leader")/root$STATE/$1/fs/root"; }

dispatch "$@"

# Sourced by booted_systemd.sh and booted_kernel.sh: a throw-away root folder over this machine's,
# and what is done at their command.

STATE=${TMPDIR:-/tmp}/i2vd-booted-systemd

alive() { [ -d "/proc/$1" ] && [ "$(awk '{print $3}' "/proc/$1/stat")" != Z ]; }

make_root() { # make_root FOLDER: at FOLDER/root, in the mount namespace of the caller
  local fs=$1 root=$1/root
  mount -t tmpfs -o size=2g,mode=755 tmpfs "$fs"
  mkdir "$fs/upper" "$fs/work" "$root"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$fs/upper,workdir=$fs/work" "$root"
  rm -f "$root/etc/machine-id"
  echo 00000000000000000000000000000001 > "$root/etc/machine-id"
  # None of this machine's services; the journal in memory.
  rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires
  rm -rf "$root/var/log/journal" "$root"/etc/rc?.d/S*
  ln -sf /dev/null "$root/etc/systemd/system/systemd-timesyncd.service"
}

dispatch() { # dispatch COMMAND ...: a function of the script; for anything else, how it is used
  local verb=${1-}
  [ "$verb" != exec ] || verb=execute
  if [[ $verb =~ ^(up|_become|execute|here|root|down)$ ]] && declare -F "$verb" > /dev/null; then
    shift
    "$verb" "$@"
  else
    sed -n '2,/^[^#]/s/^# \?//p' "$0"
    exit 2
  fi
}

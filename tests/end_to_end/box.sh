#!/bin/bash
# The installed systemd as PID 1 of private namespaces, over a throw-away overlay of this machine's root.
# Nothing is downloaded, nothing outside is changed; the network inside is loopback alone.
#   box.sh up            boots it in well under a second
#   box.sh exec CMD…     runs CMD inside, as root
#   box.sh down          powers it off and cleans up
# Environment: BOX=dir (its state), SHARE=dir (shown inside as /run/host, read and write).
# Needs root, util-linux, iproute2, systemd and dbus; overlayfs and cgroup2 in the kernel.
set -euo pipefail
: "${BOX:?a folder for the state of the box}"
SHARE=${SHARE:-$BOX/share}
SELF=$(readlink -f "$0")
CGROOT=/sys/fs/cgroup
[ -f $CGROOT/cgroup.controllers ] || CGROOT=/sys/fs/cgroup/unified # cgroup2 alone, or beside version 1
CLEAN=(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8)

# PID 1 of the new namespaces, until systemd takes its place in the last line.
inner() {
  local R=$BOX/m folder link node unit
  mount --make-rprivate /
  mount -t tmpfs -o mode=755,size=1g box "$R"
  mkdir -p "$R/root"
  mount --bind "$R/root" "$R/root"
  # An overlay for each top-level folder: / itself may have locked mounts under it.
  for folder in usr etc var opt root home srv; do
    [ -d /$folder ] || continue
    mkdir -p "$R/up/$folder" "$R/wk/$folder" "$R/root/$folder"
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$R/up/$folder,workdir=$R/wk/$folder" "$R/root/$folder"
  done
  for link in bin sbin lib lib32 lib64 libx32; do
    if [ -L /$link ]; then ln -s "$(readlink /$link)" "$R/root/$link"; fi
  done
  mkdir -p "$R"/root/{proc,sys,run,tmp,dev,mnt}
  rm -rf "$R/root/var/run"
  ln -s /run "$R/root/var/run"

  cd "$R/root"
  mount -t proc -o nosuid,nodev,noexec proc proc
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
  mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
  mount -t tmpfs -o mode=755,nosuid tmpfs dev
  for node in null zero full random urandom tty; do
    : > dev/$node
    mount --bind /dev/$node dev/$node
  done
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
  mount --bind proc/sys proc/sys
  mount -o remount,ro,bind proc/sys # no sysctl reaches this machine's kernel
  ip link set lo up
  mkdir -p run/host
  mount --bind "$SHARE" run/host

  # A small system: the message bus, logins, the journal; nothing of this machine's own services.
  unit=etc/systemd/system
  mkdir -p $unit
  rm -rf $unit/*.wants $unit/default.target
  : > etc/fstab
  rm -f etc/machine-id
  : > etc/machine-id
  echo box > etc/hostname
  printf '%s\n' '[Unit]' 'Description=box' 'Requires=basic.target dbus.service' \
    'Wants=systemd-logind.service systemd-user-sessions.service' 'After=basic.target dbus.service' > $unit/box.target
  for node in systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-tmpfiles-setup-dev.service systemd-modules-load.service systemd-sysctl.service systemd-sysusers.service \
    systemd-firstboot.service systemd-update-utmp.service systemd-random-seed.service systemd-remount-fs.service \
    systemd-binfmt.service systemd-machine-id-commit.service dev-hugepages.mount dev-mqueue.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount \
    proc-sys-fs-binfmt_misc.automount apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer man-db.timer fstrim.timer; do
    ln -sf /dev/null $unit/$node
  done

  mkdir -p "$R/root/old"
  pivot_root . old
  cd /
  umount -l /old
  rmdir /old
  mount --make-rshared / # systemd leaves this to whoever contains it; credentials need it
  exec "${CLEAN[@]}" container=box /lib/systemd/systemd --system --unit=box.target --log-target=console --show-status=no
}

inside() { nsenter -t "$(cat "$BOX/pid1")" -a -- "${CLEAN[@]}" HOME=/root TERM=dumb "$@"; }

# The process that is PID 1 in there, seen from here.
find_pid1() {
  local pid
  for pid in $(cat "$1/cgroup.procs" "$1/init.scope/cgroup.procs" 2>/dev/null); do
    if grep -qs '^NSpid:.*[[:space:]]1$' "/proc/$pid/status" && grep -qsx systemd "/proc/$pid/comm"; then
      echo "$pid" > "$BOX/pid1"
    fi
  done
}

up() {
  local group=$CGROOT/box-$$ state=none
  mkdir -p "$BOX/m" "$SHARE"
  mkdir "$group"
  echo "$group" > "$BOX/cgroup"
  (
    echo $BASHPID > "$group/cgroup.procs"
    export BOX SHARE
    exec setsid unshare -m -u -i -n -C -p -f "$SELF" inner
  ) > "$BOX/boot.log" 2>&1 < /dev/null &
  for _ in $(seq 400); do
    find_pid1 "$group"
    if [ -s "$BOX/pid1" ]; then
      state=$(inside systemctl is-system-running 2>/dev/null || true)
      case $state in running | degraded) break ;; esac
    fi
    sleep 0.05
  done
  case $state in
    running | degraded) echo "systemd is PID 1 in the box: $state" ;;
    *)
      echo "the box did not come up:"
      cat "$BOX/boot.log"
      down
      return 1
      ;;
  esac
}

down() {
  local pid group
  group=$(cat "$BOX/cgroup")
  if [ -s "$BOX/pid1" ]; then
    pid=$(cat "$BOX/pid1")
    kill -s RTMIN+14 "$pid" 2>/dev/null || true # power off now
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.05
    done
    kill -9 "$pid" 2>/dev/null || true
  else
    xargs -r kill -9 < "$group/cgroup.procs" || true
  fi
  for _ in $(seq 100); do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.05
  done
  rm -f "$BOX/pid1" "$BOX/cgroup"
}

case ${1:-} in
  inner) inner ;;
  up) up ;;
  down) down ;;
  exec) shift && inside "$@" ;;
  *)
    sed -n '2,9p' "$SELF"
    exit 2
    ;;
esac

#!/bin/sh
# Installs quorumd; called by `make install`, which names the variables and their defaults.
# An environment of its own in $PREFIX, from the lock by hash; the build tools stay out of it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "quorumd needs Python 3.11 or newer; name one: make install PYTHON=/path/to/python3"; exit 2; }
"$PYTHON" -c 'import ensurepip' 2>/dev/null || { echo "$PYTHON can't make environments; on Debian: apt-get install python3-venv"; exit 2; }

for place in "$PREFIX" "$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')"; do
  case $place in
    /home/* | /root/* | /run/user/*) echo "$place is in a home, and homes are hidden from the service; say make install PYTHON=/usr/bin/python3 PREFIX=/opt/quorumd"; exit 2 ;;
  esac
done

"$PYTHON" systemd/lock_subset.py build > "$work/build.lock"
"$PYTHON" systemd/lock_subset.py runtime > "$work/runtime.lock"
"$PYTHON" -m venv "$work/builder"
pip() { "$work/builder/bin/python" -m pip --disable-pip-version-check "$@"; }
# shellcheck disable=SC2086  # PIP_FLAGS are several words
pip install -q $PIP_FLAGS --require-hashes -r "$work/build.lock"
# Built from a copy: a root's build leaves nothing in somebody's checkout.
mkdir "$work/source"
cp -R pyproject.toml README.md LICENSE daemon actors protocols "$work/source"
pip wheel -q --no-deps --no-build-isolation --no-index --wheel-dir "$work" "$work/source"

"$PYTHON" -m venv --clear --without-pip "$DESTDIR$PREFIX"
# shellcheck disable=SC2086
pip --python "$DESTDIR$PREFIX/bin/python" install -q $PIP_FLAGS --no-compile --require-hashes -r "$work/runtime.lock"
pip --python "$DESTDIR$PREFIX/bin/python" install -q --no-compile --no-deps --no-index "$work"/quorumd-*.whl
# Nothing may name the staging folder. Compiled now, for the unit cannot write here and every start would compile again.
grep -rlI -- "$DESTDIR$PREFIX" "$DESTDIR$PREFIX/bin" "$DESTDIR$PREFIX/pyvenv.cfg" | while read -r file; do
  sed -i "s|$DESTDIR$PREFIX|$PREFIX|g" "$file"
done
"$DESTDIR$PREFIX/bin/python" -m compileall -q -s "$DESTDIR" -p / "$DESTDIR$PREFIX/lib" ||
  echo "some files were not compiled; quorumd works, its start is slower"

unit() {
  install -d "$DESTDIR$2"
  sed "s|/opt/quorumd|$PREFIX|g" "$1" > "$DESTDIR$2/${1##*/}"
  chmod 0644 "$DESTDIR$2/${1##*/}"
}
for name in quorumd.service quorumd.socket; do
  unit "systemd/$name" "$LIBDIR/systemd/system"
  unit "systemd/user/$name" "$LIBDIR/systemd/user"
done
install -D -m 0644 systemd/quorumd.sysusers.conf "$DESTDIR$LIBDIR/sysusers.d/quorumd.conf"
install -D -m 0644 systemd/quorumd.tmpfiles.conf "$DESTDIR$LIBDIR/tmpfiles.d/quorumd.conf"
install -D -m 0644 systemd/quorumd.toml "$DESTDIR/etc/quorumd/config.toml.example"
install -d "$DESTDIR$BINDIR"
for program in quorumd daemonctl; do
  ln -sfn "$PREFIX/bin/$program" "$DESTDIR$BINDIR/$program"
done
for page in docs/man/*.[1-9]; do
  [ -e "$page" ] || continue
  install -D -m 0644 "$page" "$DESTDIR$MANDIR/man${page##*.}/${page##*/}"
done

[ -n "$DESTDIR" ] || echo "quorumd is in $PREFIX. Next, as docs/install.md tells: systemd-sysusers && systemd-tmpfiles --create quorumd.conf && systemctl daemon-reload && systemctl enable --now quorumd.socket"

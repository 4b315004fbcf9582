#!/usr/bin/env bash
# Rewrites requirements.lock from pyproject.toml: newest versions with --upgrade, else as few changes as will do.
# Needs the network. uv resolves for every platform at once and lists the hashes of every file of a version, so that
# the same lock serves Linux, macOS and Windows. torch is left out: see requirements-torch.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
"$python" -m venv build/lock
build/lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'

# --fork-strategy fewest: one version of a package for all Pythons, where there is one.
new=$(mktemp build/requirements.XXXXXX)
trap 'rm -f "$new"' EXIT
if [ -e requirements.lock ]; then cp requirements.lock "$new"; fi       # uv keeps the pins it finds in its output file
build/lock/bin/uv --quiet pip compile pyproject.toml --all-extras --constraints requirements-torch.lock \
    --universal --fork-strategy fewest --generate-hashes --no-emit-package torch --no-annotate --no-header \
    --output-file "$new" "$@"
{
    echo "# Every package that svdlab, its extras and its tools need, exactly; torch is in requirements-torch.lock."
    echo "# Written by tools/lock.sh (\`make lock\`); installed by \`make setup\` with:"
    echo "#   pip install --require-hashes --no-deps -r requirements.lock"
    sed '/^# The following packages were excluded/,$d' "$new"
} > requirements.lock

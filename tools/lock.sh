#!/usr/bin/env bash
# Rewrites requirements.lock from pyproject.toml: newest versions with --upgrade, else as few changes as will do; and
# requirements-oldest.lock, with the minimum of each version that pyproject.toml names.
# Needs the network. uv resolves for every platform at once and lists the hashes of every file of a version, so that
# the same lock serves Linux, macOS and Windows. torch is left out: see requirements-torch.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
"$python" -m venv build/lock
build/lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'

# resolve LOCK ARGUMENTS: from pins that LOCK may hold. --fork-strategy fewest: one version of a package for all Pythons.
new=$(mktemp build/requirements.XXXXXX)
trap 'rm -f "$new"' EXIT
resolve() {
    local lock=$1; shift
    if [ -e "$lock" ]; then cp "$lock" "$new"; else : > "$new"; fi       # uv keeps the pins it finds in its output file
    build/lock/bin/uv --quiet pip compile pyproject.toml --all-extras --constraints requirements-torch.lock \
        --universal --fork-strategy fewest --generate-hashes --no-emit-package torch --no-annotate --no-header \
        --output-file "$new" "$@"
    sed -i '/^# The following packages were excluded/,$d' "$new"
}
resolve requirements.lock "$@"
{
    echo "# Every package that svdlab, its extras and its tools need, exactly; torch is in requirements-torch.lock."
    echo "# Written by tools/lock.sh (\`make lock\`); installed by \`make setup\` with:"
    echo "#   pip install --require-hashes --no-deps -r requirements.lock"
    cat "$new"
} > requirements.lock
resolve requirements-oldest.lock --resolution lowest-direct "$@"
{
    echo "# The oldest version of each package that pyproject.toml allows; what those need in turn, as it is today."
    echo "# Written by tools/lock.sh (\`make lock\`); installed and tried by \`make test-oldest\`."
    cat "$new"
} > requirements-oldest.lock

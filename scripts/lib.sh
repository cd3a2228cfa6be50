# What the scripts share: where the repository is, and how a step is announced. Sourced, not run.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Where rustup puts it: a shell that was open before does not know it yet, nor does a container's.
if ! command -v cargo >/dev/null 2>&1; then
    PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
fi

# Announces the step that begins now, with the minutes and seconds since the script began.
step() {
    printf '\n==> [%d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"
}

fail() {
    printf '\nFAILED: %s\n' "$*" >&2
    exit 1
}

# Builds the programs as the tests are built: with other features, each would build the dependencies once more.
build_all() {
    cargo build --locked --workspace --all-features --bins --tests
}

# A step that fails is named, whatever it printed; inside functions, too.
set -E
trap 'printf "\nFAILED after %d s: %s\n" "$SECONDS" "$BASH_COMMAND" >&2' ERR

# README.md: a newcomer's terminals, then an operator's server.

received() { until_true grep -q "$1" "$(cat "$RECIPES/terminal-tail")"; }

after_publish() {
    received '"order": 7'
    # The server is killed, and started again where it was.
    kill -KILL -- "-$(cat "$RECIPES/terminal-server.pid")"
    khala-server >"$RECIPES/again.log" 2>&1 &
    local again=$!
    echo '{"order": 8}' | khala publish orders:7 --kind paid
    received '"order": 8'
    [ "$(grep -c '"order"' "$(cat "$RECIPES/terminal-tail")")" = 2 ]
    kill -KILL "$again"
}

before_access() {
    khala key add keys.json --kid 2026-11
    server_is_there KHALA_AUTH__KEYS_FILE="$PWD/keys.json"
}

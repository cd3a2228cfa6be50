# docs/server.md: one server on SQLite, in the folder of the page.

prepare() {
    mkdir server && cd server
    server_is_there KHALA_DATABASE="$PWD/khala.db"
}

# As the comment in the file says.
instead_key() {
    mkdir -p /etc/khala
    openssl rand -base64 32 >/etc/khala/key
    khala-server --config "$BLOCK" config
}

after_backup() {
    # What the backup lacks was seen by a subscriber.
    khala tail run:7:events --from floor --until-head --cursor-file "$RECIPES/before"
    echo '{"n": 4}' | khala publish run:7:events
    khala tail run:7:events --until-head --cursor-file "$RECIPES/cursor" --from floor
    server_stops
}

after_restore() {
    server_is_there KHALA_DATABASE="$PWD/khala.db"
    echo '{"n": "another"}' | khala publish run:7:events
    local code=0
    khala tail run:7:events --until-head --cursor-file "$RECIPES/cursor" || code=$?
    [ "$code" = 3 ]
    code=0
    khala tail run:7:events --until-head --cursor-file "$RECIPES/before" || code=$?
    [ "$code" = 3 ]
}

instead_prometheus() { promtool check config "$BLOCK"; }

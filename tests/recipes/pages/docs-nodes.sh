# docs/nodes.md: PostgreSQL on a machine called db.example, as its administrator has it.

prepare() {
    names_are_here db.example
    postgres_is_there
}

before_grants() { export PGUSER=khala_owner PGDATABASE=khala; }

after_grants() { export PGUSER=postgres PGDATABASE=postgres; }

after_serve() {
    server_is_there KHALA_DATABASE="$KHALA_DATABASE" KHALA_POSTGRES__MIGRATE=false
    psql -d khala -c 'CREATE TABLE orders (id bigint PRIMARY KEY, paid boolean NOT NULL DEFAULT false)' -c 'INSERT INTO orders VALUES (7)' \
        -c 'GRANT SELECT, UPDATE ON orders TO khala_application'
}

after_append() { khala tail orders:7 --from floor --count 1; }

after_backup() {
    echo '{"order": 7}' | khala publish orders:7 --kind "not in the backup"
    khala tail orders:7 --from floor --until-head --cursor-file "$RECIPES/cursor"
    server_stops
}

after_restore() {
    server_is_there KHALA_DATABASE=postgres://khala_server:server-secret@db.example/khala KHALA_POSTGRES__MIGRATE=false
    local code=0
    khala tail orders:7 --until-head --cursor-file "$RECIPES/cursor" || code=$?
    [ "$code" = 3 ]
}

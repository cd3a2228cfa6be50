# What pages ask for: servers that are already there for their reader, and how a block that is not a script is read. Sourced.

# Waits for a command to succeed, 40 s at most: other tests may run beside this one.
until_true() {
    local deadline=$((SECONDS + 40))
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > deadline)); then
            echo "this did not come true within 40 s: $*" >&2
            return 1
        fi
        sleep 0.1
    done
}

# Servers that refuse to be root run as nobody.
as_nobody() {
    setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

# A PostgreSQL on 127.0.0.1:5432, with `postgres` as its superuser who needs no password, as on the machine of a DBA.
postgres_is_there() {
    local data=$RECIPES/postgres
    mkdir -p "$data" /run/postgresql
    chown -R 65534:65534 "$data" /run/postgresql
    as_nobody initdb --pgdata="$data" --username=postgres --auth=trust --no-sync --encoding=UTF8 --locale=C >/dev/null
    as_nobody postgres -D "$data" -c listen_addresses=127.0.0.1 -c fsync=off -c unix_socket_directories=/run/postgresql >"$RECIPES/postgres.log" 2>&1 &
    until_true psql -h 127.0.0.1 -U postgres -c 'SELECT 1'
    export PGHOST=127.0.0.1 PGUSER=postgres
}

nats_is_there() {
    nats-server --addr 127.0.0.1 --port 4222 >"$RECIPES/nats.log" 2>&1 &
    until_true bash -c 'exec 3<>/dev/tcp/127.0.0.1/4222'
}

# name_is_here NAME...: names of other machines lead to this one.
names_are_here() { for name; do echo "127.0.0.1 $name" >>/etc/hosts; done; }

# server_is_there [VARIABLE=value...]: a khala-server on 127.0.0.1:4510, with an operator's token, and a token and a URL for the command.
server_is_there() {
    (
        cd "$RECIPES"
        exec env KHALA_AUTH__HS256_KEY="$SERVER_KEY" KHALA_AUTH__ADMIN_TOKEN="$ADMIN_TOKEN" KHALA_DATABASE="$RECIPES/server.db" "$@" \
            khala-server
    ) >"$RECIPES/server.log" 2>&1 &
    echo $! >"$RECIPES/server.pid"
    export KHALA_URL=${KHALA_URL:-http://127.0.0.1:4510} KHALA_ADMIN_TOKEN=$ADMIN_TOKEN
    until_true curl -sf "$KHALA_URL/readyz"
    printf '%s' "$SERVER_KEY" >"$RECIPES/server.key"
    KHALA_TOKEN=$(khala token --key-file "$RECIPES/server.key" --sub ada --scope khala:read --scope khala:publish)
    export KHALA_TOKEN TOKEN=$KHALA_TOKEN
}

server_stops() {
    kill "$(cat "$RECIPES/server.pid")"
    until_true bash -c "! kill -0 $(cat "$RECIPES/server.pid")"
}

SERVER_KEY=a-key-for-a-server-that-lives-for-one-page
ADMIN_TOKEN=an-admin-token-for-a-server-of-one-page

# Settings are read by the server itself. A page's examples need no key of their own.
read_toml() {
    KHALA_AUTH__HS256_KEY=$SERVER_KEY khala-server --config "$BLOCK" config
}

read_sql() {
    psql -v ON_ERROR_STOP=1 -f "$BLOCK"
}

read_python() {
    "$PYTHON" "$BLOCK"
}

# A drop-in of systemd names its place in its first line.
read_ini() {
    local place
    place=$(sed -n '1s/^# \(\/[^ ]*\)$/\1/p' "$BLOCK")
    [ -n "$place" ] || { echo "its first line is not '# /the/path/of/the/file'" >&2; return 1; }
    install -D -m 644 "$BLOCK" "$place"
}

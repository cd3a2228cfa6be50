# deploy/README.md: a machine with nginx and HAProxy of Debian, which its systemd has not started.

prepare() {
    mkdir -p /var/lib/nginx /var/log/nginx /var/lib/haproxy /run/haproxy /etc/nginx/conf.d
    rm -f /etc/nginx/sites-enabled/default
}

after_systemd() {
    # What the page says of the unit is true of it.
    [ "$(stat -c %a /run/units/khala-server.service/credentials/key)" = 400 ]
    test -f /var/lib/khala/khala.db
    # A unit that systemd calls exposed is not hardened.
    systemd-analyze security --offline=true --threshold=20 --no-pager /etc/systemd/system/khala-server.service
}

after_tls() {
    local answer
    answer=$(curl --silent --cacert "$SSL_CERT_FILE" --output /dev/null --write-out '%{http_code}' "$KHALA_URL/metrics")
    [ "$answer" = 404 ]
}

before_compose() {
    # The image's own port.
    systemctl stop khala-server
}

after_compose() {
    # What applications publish through one node, a client of another has.
    local key admin
    key=$(sed -n 's/^KHALA_KEY=//p' deploy/.env)
    KHALA_TOKEN=$(KHALA_AUTH__HS256_KEY=$key khala token --ttl 10m)
    export KHALA_TOKEN
    unset SSL_CERT_FILE
    echo '{"order": 8}' | khala publish orders:8 --kind paid --url http://node-1:4510
    khala tail orders:8 --from floor --count 1 --url http://node-3:4510
    khala tail orders:8 --from floor --count 1 --url http://127.0.0.1:8080
    export KHALA_URL=http://127.0.0.1:8080
}

before_haproxy() {
    docker compose -f deploy/compose.yaml stop load-balancer
    # Where this machine lets nobody open as many files as the limit of connections needs, the limit is a lower one.
    if [ "$(ulimit -Hn)" != unlimited ] && [ "$(ulimit -Hn)" -lt 65536 ]; then
        echo 'EXTRAOPTS="-S /run/haproxy-master.sock -n 4000"' >/etc/default/haproxy
    fi
}

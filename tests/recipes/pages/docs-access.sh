# docs/access.md: a server whose tokens are signed with the key of 2026-11.

prepare() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out 2026-11.pem
    khala key add keys.json 2026-11.pem --kid 2026-11
    export MINT_SECRET=a-mint-secret-for-a-server-of-one-page
    server_is_there KHALA_AUTH__KEYS_FILE="$PWD/keys.json" KHALA_MINT__SECRET=$MINT_SECRET
    may_read_with 2026-11
}

# A token that was signed with this key opens what it should.
may_read_with() {
    khala topics --token "$(khala token --key-file "$1.pem" --kid "$1" --sub grace --ttl 1m)"
}

after_trust() {
    until_true may_read_with 2026-12
    may_read_with 2026-11
}

after_distrust() {
    until_true bash -c '! khala topics --token "$(khala token --key-file 2026-11.pem --kid 2026-11 --sub grace --ttl 1m)"'
    may_read_with 2026-12
}

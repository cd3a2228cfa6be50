# docs/operations.md: a server with the page's own class, and history that is too much for it.


before_plan() {
    sed 's/^retain.updates = .*/retain.updates = 2/; s/^sweep_interval_seconds.*/sweep_interval_seconds = "none"/' "$RECIPES/retention.toml" >"$RECIPES/plan.toml"
    cat >>"$RECIPES/plan.toml" <<END
[[classes]]
name = "fallback"
pattern = "**"
read = ["khala:read"]
publish = ["khala:publish"]
END
    server_is_there KHALA_CONFIG="$RECIPES/plan.toml"
    seq 5 | khala publish market:ACME:ticks
    seq 5 | khala publish market:EMCA:ticks
    seq 5 | khala publish orders:7
}

after_retention() { cp "$BLOCK" "$RECIPES/retention.toml"; }

before_drain() {
    pid=$(cat "$RECIPES/server.pid")
    export pid
}

after_drain() { until_true bash -c "! kill -0 $pid"; }

before_admin() { server_is_there; }

after_admin() { server_stops; }

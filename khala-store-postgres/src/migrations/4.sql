-- Payloads are I-JSON (RFC 7493), whichever way they come in.

-- How deep JSON is nested, as far as it matters.
CREATE OR REPLACE FUNCTION {khala}.json_depth(value text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $khala$
DECLARE
    -- Its brackets alone, those within strings left out; then, again and again, without the innermost pairs.
    brackets text;
    depth    integer := 0;
BEGIN
    -- So few cannot stand too deep, and need not be looked at.
    IF length(value) - length(translate(value, '[{', '')) <= 100 THEN
        RETURN 0;
    END IF;
    brackets := regexp_replace(regexp_replace(value, '"(\\.|[^"\\])*"', '', 'g'), '[^][{}]', '', 'g');
    WHILE brackets <> '' AND depth <= 100 LOOP
        brackets := replace(replace(brackets, '[]', ','), '{}', ',');
        brackets := replace(brackets, ',', '');
        depth := depth + 1;
    END LOOP;
    RETURN depth;
END
$khala$;

-- What keeps JSON from being a payload; NULL where nothing does. As Batch::new has it.
CREATE FUNCTION {khala}.payload_fault(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $khala$
DECLARE
    -- The text without its escaped backslashes, so that each backslash that is left begins an escape.
    escapes text := replace(value, '\\', '');
    found   text;
    parts   text[];
    digits  text;
    power   numeric;
BEGIN
    IF {khala}.json_depth(value) > 100 THEN
        RETURN 'is nested more than 100 levels deep';
    END IF;
    IF strpos(escapes, '\u') > 0 THEN
        IF escapes ~ '\\u([fF][dD][dDeE][0-9a-fA-F]|[fF]{3}[eEfF]|[dD][89abAB][37bBfF][fF]\\u[dD][fF][fF][eEfF])' THEN
            RETURN 'holds a noncharacter';
        END IF;
        IF regexp_replace(escapes, '\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}', ' ', 'g')
            ~ '\\u[dD][89a-fA-F]' THEN
            RETURN 'holds an unpaired surrogate';
        END IF;
    END IF;
    -- Text of one byte a character has none of these, and there looking for them would be a fault.
    IF octet_length(value) <> length(value) AND value ~ ('[\uFDD0-\uFDEF\uFFFE\uFFFF\U0001FFFE\U0001FFFF\U0002FFFE\U0002FFFF'
        || '\U0003FFFE\U0003FFFF\U0004FFFE\U0004FFFF\U0005FFFE\U0005FFFF\U0006FFFE\U0006FFFF\U0007FFFE\U0007FFFF'
        || '\U0008FFFE\U0008FFFF\U0009FFFE\U0009FFFF\U000AFFFE\U000AFFFF\U000BFFFE\U000BFFFF\U000CFFFE\U000CFFFF'
        || '\U000DFFFE\U000DFFFF\U000EFFFE\U000EFFFF\U000FFFFE\U000FFFFF\U0010FFFE\U0010FFFF]') THEN
        RETURN 'holds a noncharacter';
    END IF;
    -- Numbers that may be too large: those with a long exponent, and those with 309 digits in a row. Few payloads have either.
    IF value ~ '[0-9][eE][+]?[0-9]{2}' OR value ~ '[0-9]{200}' THEN
        FOR found IN
            SELECT number[1] FROM regexp_matches(regexp_replace(replace(escapes, '\"', ''), '"[^"]*"', '', 'g'),
                '[0-9]+(?:[.][0-9]+)?(?:[eE][+-]?[0-9]+)?', 'g') AS number
        LOOP
            parts := regexp_match(found, '^([0-9]+)(?:[.]([0-9]+))?(?:[eE]([+-]?[0-9]+))?$');
            digits := ltrim(parts[1] || coalesce(parts[2], ''), '0');
            -- The power of ten of the first digit that is not 0.
            power := coalesce(parts[3]::numeric, 0) + length(digits) - coalesce(length(parts[2]), 0) - 1;
            -- From the middle between the largest double and 2^1024 on, a number is rounded to infinity.
            IF digits <> '' AND (power > 308 OR power = 308 AND digits COLLATE "C" >=
                '179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497792') THEN
                RETURN 'holds a number that is out of the range of a double';
            END IF;
        END LOOP;
    END IF;
    IF strpos(value, '{') > 0 AND {khala}.names_twice(value) THEN
        RETURN 'has a name twice in one object';
    END IF;
    RETURN NULL;
END
$khala$;
REVOKE ALL ON FUNCTION {khala}.payload_fault(text) FROM PUBLIC;

-- Whether an object within JSON has a name twice.
CREATE FUNCTION {khala}.names_twice(value text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $khala$
BEGIN
    -- json_each has no text for \u0000. No payload that comes here holds \uffff, so that stands for it.
    RETURN (WITH RECURSIVE node(body) AS (
        SELECT replace(replace(replace(value, '\\', '\u005c'), '\u0000', '\uffff'), '\u005c', '\\')::json
        UNION ALL
        SELECT part.body FROM node, LATERAL (
            SELECT m.value FROM json_each(CASE WHEN json_typeof(node.body) = 'object' THEN node.body ELSE '{}' END) AS m
            UNION ALL
            SELECT e.value FROM json_array_elements(CASE WHEN json_typeof(node.body) = 'array' THEN node.body ELSE '[]' END) AS e
        ) AS part(body) WHERE json_typeof(part.body) IN ('object', 'array')
    )
    SELECT coalesce(bool_or((SELECT count(*) > count(DISTINCT m.key COLLATE "C") FROM json_each(node.body) AS m)), false)
    FROM node WHERE json_typeof(node.body) = 'object');
END
$khala$;
REVOKE ALL ON FUNCTION {khala}.names_twice(text) FROM PUBLIC;

-- Appends one update as part of the caller's transaction. Nothing is visible before it commits, and subscribers are woken
-- when it does. Several calls of one transaction for one topic get seqs that follow each other. The topic stays locked
-- until the transaction ends.
--
-- The outcome is 'written', or 'duplicate' where the same was appended under dedup before: then the seqs are those of the
-- first time. A conflict is an exception, so that no transaction commits without what it wanted to publish: SQLSTATE KH001
-- where the head is not where it was expected, KH002 where a document has a version that is not lower, KH003 where something
-- else was appended under dedup. A bad argument is 22023. The
-- commit is as durable as the caller's synchronous_commit makes it.
CREATE OR REPLACE FUNCTION {khala}.append(
    topic        text,
    kind         text,
    payload      json    DEFAULT 'null',
    doc_key      text    DEFAULT NULL,
    doc_version  bigint  DEFAULT NULL,
    deleted      boolean DEFAULT false,
    dedup        text    DEFAULT NULL,
    expect       bigint  DEFAULT NULL,
    payload_hash text    DEFAULT NULL,
    traceparent  text    DEFAULT NULL,
    tracestate   text    DEFAULT NULL,
    request_id   text    DEFAULT NULL,
    OUT outcome   text,
    OUT epoch     text,
    OUT first_seq bigint,
    OUT last_seq  bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $khala$
#variable_conflict use_column
DECLARE
    body    text := btrim(append.payload::text, E' \t\n\r');
    moment  bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
    traced  text;
    fault   text;
    digest  bytea;
    there   record;
    known   record;
    seq     bigint;
    version bigint;
    found_version bigint;
BEGIN
    PERFORM {khala}.check_text('topic', append.topic, 255);
    IF append.topic !~ '^[A-Za-z0-9._:/-]+$' OR append.topic ~ '^:|:$' OR append.topic IN ('phoenix', '.', '..') THEN
        RAISE EXCEPTION 'topic % is not a topic: A-Z a-z 0-9 . _ : - / only, no '':'' at either end, and not ''phoenix'', ''.'' or ''..''',
            quote_literal(append.topic) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM {khala}.check_text('kind', append.kind, 128);
    IF append.deleted IS NULL THEN
        RAISE EXCEPTION 'deleted is missing' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF body IS NULL THEN
        RAISE EXCEPTION 'payload is missing; the JSON value is ''null''' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    fault := {khala}.payload_fault(body);
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'payload %', fault USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF append.doc_key IS NOT NULL THEN
        PERFORM {khala}.check_text('doc_key', append.doc_key, 512);
    ELSIF append.deleted OR append.doc_version IS NOT NULL THEN
        RAISE EXCEPTION '% needs a doc_key', CASE WHEN append.deleted THEN 'deleted' ELSE 'doc_version' END
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF append.doc_version NOT BETWEEN 0 AND 9007199254740991 THEN
        RAISE EXCEPTION 'doc_version is not from 0 to 2^53 - 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF append.expect NOT BETWEEN 0 AND 9007199254740991 THEN
        RAISE EXCEPTION 'expect is not from 0 to 2^53 - 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF append.payload_hash !~ '^sha256:[0-9a-f]{64}$' THEN
        RAISE EXCEPTION 'payload_hash is not ''sha256:'' and 64 lower-case hexadecimal digits'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF append.dedup IS NOT NULL THEN
        PERFORM {khala}.check_text('dedup', append.dedup, 255);
    END IF;
    IF append.traceparent IS NOT NULL THEN
        PERFORM {khala}.check_text('traceparent', append.traceparent, 512);
    END IF;
    IF append.tracestate IS NOT NULL THEN
        PERFORM {khala}.check_text('tracestate', append.tracestate, 512);
    END IF;
    IF append.request_id IS NOT NULL THEN
        PERFORM {khala}.check_text('request_id', append.request_id, 512);
    END IF;
    traced := nullif(json_strip_nulls(json_build_object(
        'traceparent', append.traceparent, 'tracestate', append.tracestate, 'request_id', append.request_id))::text, '{}');

    -- The row of an untouched topic has the epoch that everybody derives for it.
    SELECT t.topic_id, t.epoch, t.head INTO there FROM {khala}.topic t WHERE t.topic = append.topic FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO {khala}.topic (topic, epoch)
        SELECT append.topic, ('x' || encode(substring(sha256(m.seed || convert_to(append.topic, 'UTF8')) FROM 1 FOR 8), 'hex'))::bit(64)::bigint
        FROM {khala}.meta m
        ON CONFLICT (topic) DO NOTHING;
        SELECT t.topic_id, t.epoch, t.head INTO STRICT there FROM {khala}.topic t
        WHERE t.topic = append.topic FOR NO KEY UPDATE;
    END IF;

    IF append.dedup IS NOT NULL THEN
        -- As Batch::content_hash has it, so that a key means the same whichever way a publisher takes.
        digest := substring(sha256({khala}.counted(append.kind) || {khala}.counted(body)
            || coalesce({khala}.counted(append.doc_key), '\xffffffff'::bytea)
            || coalesce(int8send(append.doc_version), '\xffffffffffffffff'::bytea)
            || CASE WHEN append.deleted THEN '\x01'::bytea ELSE '\x00'::bytea END) FROM 1 FOR 16);
        SELECT r.epoch, r.first_seq, r.last_seq, r.content INTO known FROM {khala}.receipt r
        WHERE r.topic_id = there.topic_id AND r.dedup = append.dedup;
        IF FOUND THEN
            IF known.content <> digest THEN
                RAISE EXCEPTION 'something else was appended to % under the dedup key %', append.topic, quote_literal(append.dedup)
                    USING ERRCODE = 'KH003', DETAIL = json_build_object('first_seq', known.first_seq, 'last_seq', known.last_seq);
            END IF;
            outcome := 'duplicate';
            epoch := lpad(to_hex(known.epoch), 16, '0');
            first_seq := known.first_seq;
            last_seq := known.last_seq;
            RETURN;
        END IF;
    END IF;
    IF append.expect <> there.head THEN
        RAISE EXCEPTION 'the head of % is % and not %', append.topic, there.head, append.expect
            USING ERRCODE = 'KH001', DETAIL = json_build_object('found', there.head, 'expected', append.expect);
    END IF;
    seq := there.head + 1;
    IF seq > 9007199254740991 THEN
        RAISE EXCEPTION 'topic % has no seqs left; publish to another topic', append.topic
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF append.doc_key IS NOT NULL THEN
        version := coalesce(append.doc_version, seq);
        SELECT d.doc_version INTO found_version FROM {khala}.document d
        WHERE d.topic_id = there.topic_id AND d.doc_key = append.doc_key;
        IF version <= found_version THEN
            RAISE EXCEPTION 'document % of % has version %, which % does not exceed',
                quote_literal(append.doc_key), append.topic, found_version, version
                USING ERRCODE = 'KH002', DETAIL = json_build_object('doc_key', append.doc_key, 'found', found_version, 'given', version);
        END IF;
    END IF;

    INSERT INTO {khala}.update (topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload)
    VALUES (there.topic_id, seq, moment, append.kind, append.doc_key, version, append.deleted, append.payload_hash, traced, body);
    IF append.doc_key IS NOT NULL THEN
        INSERT INTO {khala}.document AS d (topic_id, seq, published_at, kind, doc_key, doc_version, deleted, payload_hash, trace, payload)
        VALUES (there.topic_id, seq, moment, append.kind, append.doc_key, version, append.deleted, append.payload_hash, traced, body)
        ON CONFLICT (topic_id, doc_key) DO UPDATE SET
            seq = excluded.seq, published_at = excluded.published_at, kind = excluded.kind,
            doc_version = excluded.doc_version, deleted = excluded.deleted, payload_hash = excluded.payload_hash,
            trace = excluded.trace, payload = excluded.payload;
    END IF;
    IF append.dedup IS NOT NULL THEN
        INSERT INTO {khala}.receipt (topic_id, dedup, epoch, first_seq, last_seq, written_at, content)
        VALUES (there.topic_id, append.dedup, there.epoch, seq, seq, moment, digest);
    END IF;
    UPDATE {khala}.topic t SET head = seq,
        bytes = t.bytes + octet_length(body) + octet_length(append.kind) + coalesce(octet_length(append.doc_key), 0)
    WHERE t.topic_id = there.topic_id;

    outcome := 'written';
    epoch := lpad(to_hex(there.epoch), 16, '0');
    first_seq := seq;
    last_seq := seq;
    -- A mark that only those know who know the seed: every role of the database may listen.
    PERFORM pg_notify('{channel}', 't ' || encode(substring(sha256(convert_to('khala topic ', 'UTF8') || m.seed
        || convert_to(append.topic, 'UTF8')) FROM 1 FOR 16), 'hex'))
    FROM {khala}.meta m WHERE m.notify;
END
$khala$;

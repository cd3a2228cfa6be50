-- From when on a topic is looked at for what may go, and under which rules topics are put off. A row that says nothing is due.
-- A topic without such a moment is retired: it is empty, nobody looks at it, and no list has it. idle_since says since when a
-- topic that is put off has not moved.
--
-- Code of before goes on beside it: a topic that was put off and that such code appends to is looked at within a week; one that
-- is retired is listed and looked at again when code of this version appends to it.

-- What takes long first, while the topics can be read and written: it keeps only those waiting who write documents.
-- Documents that are there apart from tombstones, so that these cost no snapshot anything and the oldest are found.
CREATE INDEX document_there ON {khala}.document (topic_id, doc_key) WHERE NOT deleted;
CREATE INDEX document_gone ON {khala}.document (topic_id, seq) WHERE deleted;

ALTER TABLE {khala}.topic ADD COLUMN due_at bigint DEFAULT 0;
ALTER TABLE {khala}.topic ADD COLUMN idle_since bigint;
CREATE INDEX topic_due ON {khala}.topic (due_at, topic);
CREATE INDEX topic_there ON {khala}.topic (topic) WHERE due_at IS NOT NULL;
ALTER TABLE {khala}.meta ADD COLUMN rules bigint NOT NULL DEFAULT 0;

-- What is appended in the transaction of an application makes its topic due, too: the function as it is, but for that.
DO $khala$
DECLARE
    before text;
    after  text;
BEGIN
    SELECT pg_get_functiondef(p.oid) INTO STRICT before FROM pg_catalog.pg_proc p
    WHERE p.pronamespace = '{khala}'::regnamespace AND p.proname = 'append';
    after := replace(before, 'SET head = seq,', 'SET head = seq, due_at = 0,');
    IF after = before THEN
        RAISE EXCEPTION 'the function append is not the one that Khala made';
    END IF;
    EXECUTE after;
END
$khala$;

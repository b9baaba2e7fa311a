-- Invoices as they were imported, and what runs cost together with those they started.

-- One row per line of an invoice. Of an invoice only the rows of its highest `_version` count, so a corrected one replaces all
-- of it. `provider` and `model` are named as the price book names them, `model_sent` as the invoice does.
CREATE TABLE IF NOT EXISTS invoices
(
    invoice_id String,
    line UInt32,
    provider String,
    model String,
    model_sent String,
    day Date,
    amount Decimal(38, 12),
    currency String,
    tokens Nullable(UInt64),
    digest String,
    imported_at DateTime64(3, 'UTC'),
    _version UInt64
)
ENGINE = ReplacingMergeTree
ORDER BY (invoice_id, _version, line)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE VIEW IF NOT EXISTS invoices_latest AS
SELECT * EXCEPT (_version, newest)
FROM (SELECT *, max(_version) OVER (PARTITION BY invoice_id) AS newest FROM invoices FINAL)
WHERE _version = newest;

-- Each run's own cost and tokens, and those of its whole subtree, by `parent_run_id`. A sum is the known part; `unpriced` counts
-- the runs of the subtree whose cost is not known. Every run is in exactly one tree, so the sums of the roots are the sums of all
-- runs. A run is a root where it names no parent (`tree` = 'root'), its parent is not stored ('orphan'), it is its own ancestor
-- ('circle') or has more than 256 ancestors ('deep'). `covers_children` says that its own cost is at least that of its children,
-- so it may contain theirs; nothing is added or left out because of it.
-- The walk goes up from every child. It ends where it comes back to where it began, or to a mark that it moves up whenever it
-- has gone twice as far: so it notices any circle above. `again` is the first run that it met twice.
CREATE VIEW IF NOT EXISTS run_tree_costs AS
WITH RECURSIVE
    edges AS
    (
        SELECT workspace, run_id, assumeNotNull(parent_run_id) AS parent
        FROM runs FINAL
        WHERE parent_run_id IS NOT NULL AND (workspace, assumeNotNull(parent_run_id)) IN (SELECT workspace, run_id FROM runs)
    ),
    walk AS
    (
        SELECT workspace, run_id, parent AS ancestor, toUInt16(1) AS depth, parent AS mark, false AS met FROM edges
        UNION ALL
        SELECT w.workspace, w.run_id, e.parent AS ancestor, toUInt16(w.depth + 1) AS depth,
            if(bitAnd(w.depth + 1, w.depth) = 0, e.parent, w.mark) AS mark, e.parent = w.mark AS met
        FROM walk AS w INNER JOIN edges AS e ON e.workspace = w.workspace AND e.run_id = w.ancestor
        WHERE w.ancestor != w.run_id AND NOT w.met AND w.depth <= 256
    ),
    walked AS
    (
        SELECT workspace, run_id, arrayMap(x -> x.2, arraySort(groupArray((depth, ancestor)))) AS met,
            indexOf(arrayEnumerateUniq(met), 2) AS again,
            multiIf(has(met, run_id), 'circle', again = 0 AND length(met) > 256, 'deep', 'child') AS tree,
            multiIf(tree != 'child', [], again > 0, arraySlice(met, 1, indexOf(met, met[again])), met) AS ancestors
        FROM walk
        GROUP BY workspace, run_id
    ),
    placed AS
    (
        SELECT r.workspace AS workspace, r.run_id AS run_id, r.parent_run_id AS parent_run_id, r.agent_id AS agent_id,
            r.status AS status, r.closed_by AS closed_by, r.cost_computed AS cost_computed, r.cost_effective AS cost_effective,
            if(r.input_uncached IS NULL, toInt64(r.total_tokens), toInt64(assumeNotNull(r.input_uncached)
                + ifNull(r.cache_read, 0) + ifNull(r.cache_write_5m, 0) + ifNull(r.cache_write_1h, 0)
                + ifNull(r.output, 0))) AS tokens,
            multiIf(w.tree != '', w.tree, r.parent_run_id IS NULL, 'root', 'orphan') AS tree, w.ancestors AS ancestors
        FROM runs AS r FINAL LEFT JOIN walked AS w ON w.workspace = r.workspace AND w.run_id = r.run_id
    )
SELECT workspace, at AS run_id, anyIf(p.parent_run_id, self) AS parent_run_id, anyIf(p.agent_id, self) AS agent_id,
    anyIf(p.status, self) AS status, anyIf(p.closed_by, self) AS closed_by, anyIf(p.tree, self) AS tree,
    anyIf(if(empty(p.ancestors), p.run_id, p.ancestors[-1]), self) AS root_run_id,
    anyIf(length(p.ancestors), self) AS depth, count() AS runs, countIf(p.cost_effective IS NULL) AS unpriced,
    anyIf(p.cost_computed, self) AS cost_computed, sum(p.cost_computed) AS inclusive_cost_computed,
    anyIf(p.cost_effective, self) AS cost_effective, sum(p.cost_effective) AS inclusive_cost_effective,
    anyIf(p.tokens, self) AS tokens, sum(p.tokens) AS inclusive_tokens,
    sumIf(p.cost_effective, p.ancestors[1] = at) AS children_cost_effective,
    ifNull(cost_effective >= children_cost_effective AND children_cost_effective > 0, false) AS covers_children
FROM (SELECT *, arrayJoin(arrayConcat([run_id], ancestors)) AS at, at = run_id AS self FROM placed) AS p
GROUP BY workspace, at;

"""The tables by what happens to them, and the settings that make an insert durable."""

from __future__ import annotations

#: Tables with the hidden column `batch`: all of them. A write adds to some, a change takes their place.
BATCHED = ("events", "samples", "books", "quarantine", "weighted", "rolled", "people", "activity", "active_days",
           "sightings", "rolled_up", "pruned", "alive")  #: see migrations/clickhouse_0001.sql  # fmt: skip

#: Of every table. A part is on the disk when its insert, or the merge that made it, returns; parts that were merged
#: away are removed at once, so what was deleted does not linger.
DURABLE = {
    "fsync_after_insert": 1,
    "fsync_part_directory": 1,
    "min_rows_to_fsync_after_merge": 1,
    "min_compressed_bytes_to_fsync_after_merge": 1,
    "non_replicated_deduplication_window": 1_000,
    "old_parts_lifetime": 1,
    "merge_tree_clear_old_parts_interval_seconds": 1,
    "finished_mutations_to_keep": 0,
}

#: Of every table as well, though nothing is lost without it. Of a damaged block ClickHouse tries every single bit,
#: which no time-out ends and which takes the square of its size: 2 s for 64 KiB, seven minutes for the usual 1 MiB. The
#: limit holds for parts that have a file for each column; in small ones a block is a column of 8,192 rows.
BLOCKS = {"max_compress_block_size": 65_536}

#: Of the statements of a change: the same row added twice is two rows.
EVERY_ROW: dict[str, str | int | float] = {"insert_deduplicate": 0, "deduplicate_insert": "disable"}

#: Of every statement.
SESSION: dict[str, str | int | float] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_insert": "enable",
    "deduplicate_insert_select": "disable",
    "insert_allow_materialized_columns": 1,
    "max_partitions_per_insert_block": 0,
    "max_query_size": 1 << 28,
    "max_ast_elements": 10_000_000,
    "max_expanded_ast_elements": 10_000_000,
    "mutations_sync": 2,
    "log_queries": 0,
    "database_atomic_wait_for_drop_and_detach_synchronously": 1,
    "short_circuit_function_evaluation": "force_enable",
}

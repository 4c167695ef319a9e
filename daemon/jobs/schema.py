"""Tables of the queue. A change after a release needs a Migration in migrations.py.

Changes of `jobs.state` (each is made by the module in brackets, and recorded in `events`):

    (new) -> queued                            enqueue [store]
    (new) -> failed                            reject an unusable picture [store]
    queued -> running                          claim [store]
    queued -> cancelled                        cancel [operator]; replace by a newer picture [store]
    running -> queued                          release, postpone, retry later [store];
                                               recover [recovery]
    running -> failed | cancelled              fail, cancel [store]; recover [recovery]
    running -> publishing                      begin publication: the fence [store]
    publishing -> done                         finish [store]
    publishing -> queued                       requeue a publication whose clip was lost [store]
    publishing -> cancelled                    withdraw a publication [store]
    failed | cancelled -> queued               retry [operator]
    done | failed | cancelled -> (none)        remove [pruning]
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

metadata = sa.MetaData()


class _Json(sa.TypeDecorator[Any]):
    """JSON. A text that is not JSON is read as that text, so that it costs its own row only."""

    impl = sa.JSON
    cache_ok = True

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return self.impl_instance.coerce_compared_value(op, value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        parse = super().result_processor(dialect, coltype)

        def parse_or_keep(value: Any) -> Any:
            if isinstance(value, bytes):  # a BLOB of SQLite, whatever it contains
                return value
            try:
                return parse(value) if parse else value
            except (ValueError, TypeError, RecursionError):
                return str(value)

        return parse_or_keep


class valid_json(FunctionElement[Any]):  # noqa: N801  # a function of SQL
    """The value of a JSON column, or NULL if it is not JSON, where functions of JSON would fail."""

    type = sa.JSON()
    inherit_cache = True


@compiles(valid_json)
def _compile_valid_json(element: Any, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(valid_json, "sqlite")
def _compile_valid_json_for_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    return f"CASE WHEN typeof({column}) = 'text' AND json_valid({column}) THEN {column} END"


class is_typed(FunctionElement[bool]):  # noqa: N801  # a function of SQL
    """True if a column has NULL or a value of its own type: SQLite stores any value anywhere."""

    type = sa.Boolean()
    inherit_cache = True


@compiles(is_typed)
def _compile_is_typed(element: Any, compiler: Any, **options: Any) -> str:
    return "true"


@compiles(is_typed, "sqlite")
def _compile_is_typed_for_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    (column,) = element.clauses
    types = "'text'" if isinstance(column.type, sa.Text) else "'integer', 'real'"
    return f"(typeof({compiler.process(column, **options)}) IN ('null', {types}))"


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    # One drop of one picture; variants share it.
    sa.Column("inbox", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("path_nfc", sa.Text, nullable=False, server_default=""),  # for comparisons
    sa.Column("drop", sa.Integer, nullable=False),
    sa.Column("variant", sa.Integer, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("source", _Json, nullable=False),
    sa.Column("overrides", _Json, nullable=False, server_default="[]"),
    sa.Column("picture_location", sa.Text, nullable=False, server_default="inbox"),
    sa.Column("picture_path", sa.Text),
    sa.Column("archival_error", sa.Text),
    # The clip to generate.
    sa.Column("spec", _Json),
    sa.Column("preset", sa.Text),  # a copy of the spec's, for counting
    sa.Column("clip_name", sa.Text, nullable=False),
    sa.Column("rule", sa.Text),
    sa.Column("rules_digest", sa.Text),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("required_memory", sa.BigInteger),  # bytes; compared with hosts.memory_limit
    # Progress.
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("not_before", sa.Float, nullable=False, server_default="0"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("waits", sa.Integer, nullable=False, server_default="0"),  # since the last progress
    sa.Column("rung", sa.Integer, nullable=False, server_default="0"),
    sa.Column("fallbacks", _Json, nullable=False, server_default="[]"),
    sa.Column("owner", sa.Text),
    sa.Column("lease", sa.Float),
    sa.Column("cancel", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("progress", _Json),
    sa.Column("error", sa.Text),
    sa.Column("result", _Json),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.UniqueConstraint("inbox", "path", "drop", "variant"),
    sqlite_autoincrement=True,  # the number of a pruned job is never given again
)
# The next job to claim: of all, and of each required memory (claim_filter.py). The state comes
# first, though it is the same in all rows of the index: otherwise SQLite uses jobs_state and sorts
# all queued jobs. In jobs_next_by_memory, PostgreSQL would read the whole index because of it.
_QUEUED = jobs.c.state == "queued"
sa.Index(
    "jobs_next",
    jobs.c.state,
    jobs.c.priority.desc(),
    jobs.c.id,
    sqlite_where=_QUEUED,
    postgresql_where=_QUEUED,
)
for _dialect, _ahead in {"sqlite": [jobs.c.state], "postgresql": []}.items():
    sa.Index(
        "jobs_next_by_memory",
        *_ahead,
        jobs.c.required_memory,
        jobs.c.priority.desc(),
        jobs.c.id,
        sqlite_where=_QUEUED,
        postgresql_where=_QUEUED,
    ).ddl_if(dialect=_dialect)
# Pictures whose archival is pending: few, compared with all finished jobs. The location comes
# first, though it is the same in all rows of the index: otherwise SQLite uses jobs_state.
_MAY_BE_ARCHIVED = jobs.c.picture_location == "inbox"
sa.Index(
    "jobs_pending_archival",
    jobs.c.picture_location,
    jobs.c.state,
    jobs.c.id,
    sqlite_where=_MAY_BE_ARCHIVED,
    postgresql_where=_MAY_BE_ARCHIVED,
)
sa.Index("jobs_path", jobs.c.inbox, jobs.c.path_nfc)
sa.Index("jobs_content", jobs.c.sha256)
sa.Index("jobs_state", jobs.c.state, jobs.c.id)
sa.Index("jobs_counted", jobs.c.state, jobs.c.rule, jobs.c.preset)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("job", sa.BigInteger, sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

pruned = sa.Table(
    "pruned",
    metadata,
    # How many jobs were pruned, so that the counts of all jobs stay right: pruning.py.
    sa.Column("state", sa.Text, primary_key=True),
    sa.Column("rule", sa.Text, primary_key=True),
    sa.Column("preset", sa.Text, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)

peaks = sa.Table(
    "peaks",
    metadata,
    # Measured peak memory: the newest of each clip shape, in each setup (estimate/memory.py).
    sa.Column("card", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("weights", sa.Text, primary_key=True),
    sa.Column("versions", sa.Text, primary_key=True),
    sa.Column("dtype", sa.Text, primary_key=True),
    sa.Column("mode", sa.Text, primary_key=True),
    sa.Column("width", sa.Integer, primary_key=True),
    sa.Column("height", sa.Integer, primary_key=True),
    sa.Column("frames", sa.Integer, primary_key=True),
    sa.Column("guided", sa.Boolean, primary_key=True),
    sa.Column("predicted", sa.BigInteger, nullable=False),
    sa.Column("measured", sa.BigInteger, nullable=False),
    sa.Column("is_lower_bound", sa.Boolean, nullable=False),  # out of memory at `measured` bytes
    sa.Column("at", sa.Float, nullable=False),
)

submissions = sa.Table(
    "submissions",
    metadata,
    # Pictures that were uploaded with an idempotency key.
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("after", sa.BigInteger, nullable=False),  # the newest job before the upload
    sa.Column("at", sa.Float, nullable=False),
)

hosts = sa.Table(
    "hosts",
    metadata,
    # The report of each daemon: fleet/hosts.py.
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("devices", _Json, nullable=False),
    sa.Column("accepts", _Json, nullable=False),
    sa.Column("memory_limit", sa.BigInteger),
    sa.Column("speed", sa.Float),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("last_heartbeat", sa.Float, nullable=False),
    sa.Column("lease", sa.Float, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def same_drop(job: Any) -> sa.ColumnElement[bool]:
    """Select the jobs of the same drop as `job`, a Job or a row."""
    return sa.and_(jobs.c.inbox == job.inbox, jobs.c.path == job.path, jobs.c.drop == job.drop)


def is_drained(owner: str) -> sa.Exists:
    """Return a clause that is true if the operator drained this host."""
    return sa.exists().where(hosts.c.owner == owner, hosts.c.draining)

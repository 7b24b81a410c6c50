"""
The search index, and an index of the conversations that it does not know whole. Both are derived.

Revision: 0003.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeEngine

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def fixed(length: int) -> TypeEngine[bytes]:
    """Bytes of one length."""
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


def words() -> TypeEngine[str]:
    """Words as the database searches them."""
    text = sa.Text().with_variant(postgresql.TSVECTOR(), "postgresql")
    return text.with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    """Make the tables, empty; the index is caught up by whoever searches."""
    op.create_index(
        "ix_conversation_behind",
        "conversation",
        ["scope", "id"],
        unique=False,
        sqlite_where=sa.text("indexed_length < length"),
        postgresql_where=sa.text("indexed_length < length"),
    )
    op.create_table(
        "conversation_search",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
            comment="the entry's time, and its place among those of one time: newest is highest",
        ),
        sa.Column("conversation", fixed(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("words", words(), nullable=False, comment="as record/words.py tells them apart"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_conversation_search")),
    )
    op.create_index(
        op.f("ix_conversation_search_conversation_position"),
        "conversation_search",
        ["conversation", "position"],
        unique=True,
    )
    dialect = op.get_context().dialect.name
    if dialect == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE conversation_search_fts USING fts5"
            "(words, content='conversation_search', content_rowid='number', tokenize='ascii')"
        )
    elif dialect == "postgresql":
        op.create_index("ix_conversation_search_words", "conversation_search", ["words"], postgresql_using="gin")
    else:
        op.create_index(
            "ix_conversation_search_words",
            "conversation_search",
            ["words"],
            mysql_prefix="FULLTEXT",
            mariadb_prefix="FULLTEXT",
        )


def downgrade() -> None:
    """Refuse: what is recorded is never thrown away by a migration."""
    raise RuntimeError("there is no way back; restore a backup")

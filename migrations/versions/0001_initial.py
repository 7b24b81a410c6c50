"""
The first schema.

Revision: 0001.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def fixed(length: int) -> TypeEngine[bytes]:
    """Bytes of one length."""
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


def varying(length: int) -> TypeEngine[bytes]:
    """Bytes up to a length."""
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def long() -> TypeEngine[bytes]:
    """Bytes of any length."""
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "conversation",
        sa.Column("id", fixed(16), nullable=False),
        sa.Column("scope", varying(255), nullable=False),
        sa.Column("title", long(), comment="UTF-8; derived from the newest labelled entry"),
        sa.Column("metadata", long(), comment="JSON; derived from the newest labelled entry"),
        sa.Column("length", sa.BigInteger(), nullable=False, comment="entries in the log; the next position"),
        sa.Column("head", fixed(32), nullable=False, comment="digest of the last entry"),
        sa.Column("view_position", sa.BigInteger(), nullable=False, comment="the entry that tells the current view"),
        sa.Column("settings_position", sa.BigInteger(), nullable=False, comment="the current settings entry"),
        sa.Column("pending_token", fixed(16), nullable=False, comment="whose the pending exchange is; zeros: none"),
        sa.Column("pending_position", sa.BigInteger(), nullable=False, comment="its request entry; -1: none"),
        sa.Column("lease_until", sa.BigInteger(), nullable=False, comment="by the database's clock; 0: none"),
        sa.Column(
            "lease_owner",
            sa.String(length=200),
            nullable=False,
            comment="boot id, process and start time of the owner",
        ),
        sa.Column("forked_from", fixed(16)),
        sa.Column("indexed_length", sa.BigInteger(), nullable=False, comment="entries the search index knows"),
        sa.Column("sealed_length", sa.BigInteger(), nullable=False, comment="entries covered by a seal"),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation")),
    )
    op.create_index(op.f("ix_conversation_forked_from"), "conversation", ["forked_from"], unique=False)
    op.create_index(op.f("ix_conversation_scope_updated_id"), "conversation", ["scope", "updated", "id"], unique=False)
    op.create_table(
        "conversation_blob",
        sa.Column("scope", varying(255), nullable=False),
        sa.Column("digest", fixed(32), nullable=False, comment="SHA-256 of the bytes"),
        sa.Column("media_type", sa.String(length=100), nullable=False, comment="read from the bytes"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), comment="pixels"),
        sa.Column("height", sa.Integer(), comment="pixels"),
        sa.Column("pages", sa.Integer()),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "digest", name=op.f("pk_conversation_blob")),
    )
    op.create_table(
        "conversation_blob_chunk",
        sa.Column("scope", varying(255), nullable=False),
        sa.Column("digest", fixed(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("data", long(), nullable=False, comment="1 MiB, the last one less"),
        sa.ForeignKeyConstraint(
            ["scope", "digest"],
            ["conversation_blob.scope", "conversation_blob.digest"],
            name=op.f("fk_conversation_blob_chunk_scope_digest"),
        ),
        sa.PrimaryKeyConstraint("scope", "digest", "number", name=op.f("pk_conversation_blob_chunk")),
    )
    op.create_table(
        "conversation_entry",
        sa.Column("conversation", fixed(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("salt", fixed(32)),
        sa.Column("request_salt", fixed(32)),
        sa.Column("digest", fixed(32), nullable=False),
        sa.Column("header", long(), nullable=False),
        sa.Column("about", long()),
        sa.Column("body", long()),
        sa.ForeignKeyConstraint(["conversation"], ["conversation.id"], name=op.f("fk_conversation_entry_conversation")),
        sa.PrimaryKeyConstraint("conversation", "position", name=op.f("pk_conversation_entry")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "conversation_exchange",
        sa.Column("conversation", fixed(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="of the request entry"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("served_by", sa.String(length=200)),
        sa.Column("begun", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger()),
        sa.Column("body_length", sa.BigInteger(), nullable=False),
        sa.Column("sent_by", sa.String(length=16), nullable=False),
        sa.Column("streamed", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("maybe_billed", sa.SmallInteger(), nullable=False),
        sa.Column("idempotency_key", varying(255), comment="NULL on retries"),
        sa.Column("retry_of", sa.BigInteger(), comment="position of the first exchange of its chain of retries"),
        sa.Column("outcome", sa.BigInteger(), comment="position of the outcome entry"),
        sa.Column("turn", sa.BigInteger(), comment="position of the model's turn"),
        sa.Column("message_id", sa.String(length=200)),
        sa.Column("request_id", sa.String(length=200)),
        sa.Column("stop_reason", sa.String(length=64)),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_creation_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usage", long(), comment="the usage object as received"),
        sa.ForeignKeyConstraint(
            ["conversation"], ["conversation.id"], name=op.f("fk_conversation_exchange_conversation")
        ),
        sa.PrimaryKeyConstraint("conversation", "position", name=op.f("pk_conversation_exchange")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_conversation_exchange_conversation_idempotency_key"),
        "conversation_exchange",
        ["conversation", "idempotency_key"],
        unique=True,
    )
    op.create_index(
        op.f("ix_conversation_exchange_conversation_retry_of"),
        "conversation_exchange",
        ["conversation", "retry_of"],
        unique=False,
    )
    op.create_table(
        "conversation_journal",
        sa.Column("conversation", fixed(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="of the request entry"),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("data", long(), nullable=False, comment="bytes of a stream, as they arrived"),
        sa.ForeignKeyConstraint(
            ["conversation"], ["conversation.id"], name=op.f("fk_conversation_journal_conversation")
        ),
        sa.PrimaryKeyConstraint("conversation", "position", "number", name=op.f("pk_conversation_journal")),
    )
    op.create_table(
        "conversation_key",
        sa.Column("scope", varying(255), nullable=False),
        sa.Column("key", varying(512), nullable=False, comment="UTF-8, never normalised"),
        sa.Column("conversation", fixed(16), nullable=False),
        sa.ForeignKeyConstraint(["conversation"], ["conversation.id"], name=op.f("fk_conversation_key_conversation")),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_conversation_key")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_conversation_key_conversation"), "conversation_key", ["conversation"], unique=True)
    op.create_table(
        "conversation_blob_use",
        sa.Column("conversation", fixed(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="which of the entry's splices, from 0"),
        sa.Column("scope", varying(255), nullable=False),
        sa.Column("digest", fixed(32), nullable=False),
        sa.Column("salt", fixed(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation", "position"],
            ["conversation_entry.conversation", "conversation_entry.position"],
            name=op.f("fk_conversation_blob_use_conversation_position"),
        ),
        sa.ForeignKeyConstraint(
            ["scope", "digest"],
            ["conversation_blob.scope", "conversation_blob.digest"],
            name=op.f("fk_conversation_blob_use_scope_digest"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("conversation", "position", "number", name=op.f("pk_conversation_blob_use")),
    )
    op.create_index(
        op.f("ix_conversation_blob_use_scope_digest"),
        "conversation_blob_use",
        ["scope", "digest"],
        unique=False,
    )


def downgrade() -> None:
    """Refuse: what is recorded is never thrown away by a migration."""
    raise RuntimeError("there is no way back; restore a backup")

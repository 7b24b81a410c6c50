"""
The log of seals: its leaves, tiles and checkpoints; and an index of the conversations that it does not cover whole.

Revision: 0004.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

revision = "0004"
down_revision = "0003"
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
    """Make the tables, empty; what is there already is sealed by whoever seals first."""
    op.create_index(
        "ix_conversation_unsealed",
        "conversation",
        ["id"],
        unique=False,
        sqlite_where=sa.text("sealed_length < length"),
        postgresql_where=sa.text("sealed_length < length"),
    )
    op.create_table(
        "conversation_log",
        sa.Column("log", sa.Integer(), autoincrement=False, nullable=False, comment="from 1; the newest goes on"),
        sa.Column("origin", varying(255), nullable=False, comment="UTF-8; the first line of its checkpoints"),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="leaves; the sealers' compare-and-set"),
        sa.Column("frontier", long(), nullable=False, comment="roots of the largest perfect subtrees, left to right"),
        sa.PrimaryKeyConstraint("log", name=op.f("pk_conversation_log")),
    )
    op.create_table(
        "conversation_seal",
        sa.Column("log", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="of the leaf, from 0"),
        sa.Column("conversation", fixed(16), comment="NULL: the leaf speaks of none"),
        sa.Column(
            "length",
            sa.BigInteger(),
            nullable=False,
            comment="entries it had; 0 where there is no conversation",
        ),
        sa.Column("leaf", long(), nullable=False, comment="the bytes that are hashed"),
        sa.PrimaryKeyConstraint("log", "number", name=op.f("pk_conversation_seal")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_conversation_seal_log_conversation_length"),
        "conversation_seal",
        ["log", "conversation", "length"],
        unique=False,
    )
    op.create_table(
        "conversation_tile",
        sa.Column("log", sa.Integer(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hashes", long(), nullable=False, comment="up to 256, 32 bytes each; a full tile never changes"),
        sa.PrimaryKeyConstraint("log", "level", "number", name=op.f("pk_conversation_tile")),
    )
    op.create_table(
        "conversation_checkpoint",
        sa.Column("log", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", long(), nullable=False, comment="as signed"),
        sa.Column("at", sa.BigInteger(), nullable=False, comment="by the signer's clock"),
        sa.Column("published_to", long(), nullable=False, comment="JSON: the names of the anchors that took it"),
        sa.PrimaryKeyConstraint("log", "size", name=op.f("pk_conversation_checkpoint")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Refuse: what is recorded is never thrown away by a migration."""
    raise RuntimeError("there is no way back; restore a backup")

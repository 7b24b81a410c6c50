"""
Encryption: wrapped data keys, whose data key a conversation writes under, blobs that belong to one conversation.

Revision: 0005.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SALTS = (
    ("conversation_entry", "salt", True),
    ("conversation_entry", "request_salt", True),
    ("conversation_blob_use", "salt", False),
)


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
    """Make room; what is there is as it was, and not encrypted."""
    op.add_column(
        "conversation",
        sa.Column(
            "data_key",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="the data key that new content is encrypted under; 0: none",
        ),
    )
    op.add_column(
        "conversation_blob",
        sa.Column("conversation", fixed(16), comment="whose alone it is, encrypted; NULL: the scope's"),
    )
    op.create_index(op.f("ix_conversation_blob_conversation"), "conversation_blob", ["conversation"], unique=False)
    op.create_table(
        "conversation_data_key",
        sa.Column("conversation", fixed(16), nullable=False),
        sa.Column(
            "number",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="random: never two keys of one number",
        ),
        sa.Column("wrapping_key", varying(255), nullable=False, comment="its name in the host's key ring"),
        sa.Column("wrapped", long(), comment="NULL: given up, its wrapping key is to be destroyed"),
        sa.PrimaryKeyConstraint("conversation", "number", name=op.f("pk_conversation_data_key")),
        sa.ForeignKeyConstraint(
            ["conversation"], ["conversation.id"], name=op.f("fk_conversation_data_key_conversation")
        ),
    )
    if op.get_context().dialect.name in {"mysql", "mariadb"}:  # elsewhere bytes have no length
        for table, column, nullable in SALTS:
            op.alter_column(table, column, type_=varying(160), existing_type=fixed(32), existing_nullable=nullable)


def downgrade() -> None:
    """Refuse: what is recorded is never thrown away by a migration."""
    raise RuntimeError("there is no way back; restore a backup")

"""
What an exchange cost, and the work it is made of. What was recorded before has NULL: not known.

Revision: 0002.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def long() -> TypeEngine[bytes]:
    """Bytes of any length."""
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def columns() -> tuple[sa.Column[Any], ...]:
    """What is added to an exchange."""
    return (
        sa.Column("cost", sa.BigInteger(), comment="picodollars; NULL: not known"),
        sa.Column("unpriced", sa.SmallInteger(), comment="1: the cost leaves something out"),
        sa.Column("price", long(), comment="as the outcome keeps it"),
        sa.Column("work_input", sa.BigInteger(), comment="tokens over all iterations; NULL: not counted"),
        sa.Column("work_write_5m", sa.BigInteger()),
        sa.Column("work_write_1h", sa.BigInteger()),
        sa.Column("work_read", sa.BigInteger()),
        sa.Column("work_output", sa.BigInteger()),
        sa.Column("web_searches", sa.BigInteger()),
        sa.Column("web_fetches", sa.BigInteger()),
        sa.Column("code_executions", sa.BigInteger()),
    )


def upgrade() -> None:
    """Add the columns; none has a default, so that no row is rewritten."""
    for column in columns():
        op.add_column("conversation_exchange", column)


def downgrade() -> None:
    """Refuse: what is recorded is never thrown away by a migration."""
    raise RuntimeError("there is no way back; restore a backup")

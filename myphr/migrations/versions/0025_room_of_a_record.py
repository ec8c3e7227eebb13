"""An index that tells how much a record holds, asked for with every file that comes

Revision: 0025, after 0024
"""

import sqlalchemy as sa
from alembic import op

revision = '0025'
down_revision = '0024'
branch_labels = None
depends_on = None

HELD = sa.text("length(sealed_dek) > 0")


def upgrade() -> None:
    op.create_index(
        'ix_item_room', 'item', ['account_id', 'plain_bytes'], unique=False, sqlite_where=HELD, postgresql_where=HELD
    )


def downgrade() -> None:
    op.drop_index('ix_item_room', table_name='item')

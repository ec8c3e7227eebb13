"""A task of re-wrapping carries the owner's order to destroy the old halves

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('rewrap_task') as table:
        table.add_column(sa.Column('destroy_order', sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('rewrap_task') as table:
        table.drop_column('destroy_order')

"""A VM session of a single file knows which one, so that it can be asked for again

Revision: 0002, after 0001
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('vm_session') as table:
        table.add_column(sa.Column('item_id', sqlmodel.sql.sqltypes.AutoString(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('vm_session') as table:
        table.drop_column('item_id')

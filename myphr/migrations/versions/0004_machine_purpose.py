"""A machine that the doctor asks is nobody else's

Revision: 0004, after 0003
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('machine') as table:
        table.add_column(
            sa.Column('purpose', sqlmodel.sql.sqltypes.AutoString(), nullable=False, server_default='session')
        )


def downgrade() -> None:
    with op.batch_alter_table('machine') as table:
        table.drop_column('purpose')

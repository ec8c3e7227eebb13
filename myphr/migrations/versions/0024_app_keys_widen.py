"""App keys follow their scope: what wraps their rows, sealed to the owner; keys made before stay as they are

Revision: 0024, after 0023
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0024'
down_revision = '0023'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('app_key', schema=None) as batch_op:
        batch_op.add_column(sa.Column('sealed_key', sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column('covers_all', sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table('app_key_study', schema=None) as batch_op:
        batch_op.add_column(sa.Column('wrapped_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('app_key_study', schema=None) as batch_op:
        batch_op.drop_column('wrapped_at')
    with op.batch_alter_table('app_key', schema=None) as batch_op:
        batch_op.drop_column('covers_all')
        batch_op.drop_column('sealed_key')

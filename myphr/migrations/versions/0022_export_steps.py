"""Orders of exports in pieces; one that was under way is asked for again

Revision: 0022, after 0021
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0022'
down_revision = '0021'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('export', schema=None) as batch_op:
        batch_op.add_column(
            sa.Column('order_pieces', sqlmodel.sql.sqltypes.AutoString(), nullable=False, server_default='[]')
        )
        batch_op.add_column(sa.Column('opened_to', sqlmodel.sql.sqltypes.AutoString(), nullable=True))
        batch_op.add_column(sa.Column('items_opened', sa.Integer(), nullable=False, server_default='0'))
        batch_op.drop_column('order_bytes')
    _forget_orders()


def downgrade() -> None:
    _forget_orders()
    with op.batch_alter_table('export', schema=None) as batch_op:
        batch_op.add_column(sa.Column('order_bytes', sa.BigInteger(), nullable=False, server_default='0'))
        batch_op.drop_column('items_opened')
        batch_op.drop_column('opened_to')
        batch_op.drop_column('order_pieces')


def _forget_orders() -> None:
    export = sa.table('export', sa.column('state'), sa.column('error_code'), sa.column('key_for_worker', sa.LargeBinary),
                      sa.column('sealed_key', sa.LargeBinary))
    op.execute(export.update().where(export.c.state.in_(('preparing', 'waiting', 'running')))
               .values(state='failed', error_code='order-lost', key_for_worker=None, sealed_key=b''))

"""Readings: what was read out of an item, and its picture

Revision: 0010, after 0009
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('item_reading',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('item_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('dek_for_worker', sa.LargeBinary(), nullable=True),
    sa.Column('sealed_reading', sa.LargeBinary(), nullable=True),
    sa.Column('has_preview', sa.Boolean(), nullable=False),
    sa.Column('has_narrative', sa.Boolean(), nullable=False),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('changed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['item_id'], ['item.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('item_id')
    )
    with op.batch_alter_table('item_reading', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_item_reading_account_id'), ['account_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_item_reading_state'), ['state'], unique=False)
    op.create_table('item_preview',
    sa.Column('item_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed_preview', sa.LargeBinary(), nullable=True),
    sa.Column('sealed_narrative', sa.LargeBinary(), nullable=True),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['item_id'], ['item.id'], ),
    sa.PrimaryKeyConstraint('item_id')
    )
    with op.batch_alter_table('item_preview', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_item_preview_account_id'), ['account_id'], unique=False)


def downgrade() -> None:
    op.drop_table('item_preview')
    op.drop_table('item_reading')

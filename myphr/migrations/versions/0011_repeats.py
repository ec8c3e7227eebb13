"""What came again, and what files call themselves

Revision: 0011, after 0010
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('item_repeat',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('item_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('place_key', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed_note', sa.LargeBinary(), nullable=False),
    sa.Column('source', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('source_id', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('times', sa.Integer(), nullable=False),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('last_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['item_id'], ['item.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('item_id', 'place_key')
    )
    with op.batch_alter_table('item_repeat', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_item_repeat_account_id'), ['account_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_item_repeat_item_id'), ['item_id'], unique=False)
    op.create_table('item_identifier',
    sa.Column('item_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('kind', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('key', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['item_id'], ['item.id'], ),
    sa.PrimaryKeyConstraint('item_id', 'kind', 'key')
    )
    with op.batch_alter_table('item_identifier', schema=None) as batch_op:
        batch_op.create_index('ix_item_identifier_key', ['account_id', 'kind', 'key'], unique=False)


def downgrade() -> None:
    op.drop_table('item_identifier')
    op.drop_table('item_repeat')

"""Deletions with their proof; keys of files that were erased before go from shares too

Revision: 0019, after 0018
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0019'
down_revision = '0018'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('deletion',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('what', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('items_count', sa.Integer(), nullable=False),
    sa.Column('item_ids', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed_note', sa.LargeBinary(), nullable=False),
    sa.Column('facts', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('changed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('bytes_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('deletion', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_deletion_account_id'), ['account_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_deletion_state'), ['state'], unique=False)
    op.execute("DELETE FROM item_wrap WHERE item_id IN (SELECT id FROM item WHERE length(sealed_dek) = 0)")


def downgrade() -> None:
    op.drop_table('deletion')

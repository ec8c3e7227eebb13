"""Viewers: what people said of them, counted without identities

Revision: 0014, after 0013
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('viewer_memory',
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('account_id')
    )
    op.create_table('viewer_answer',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('id'),
    sqlite_with_rowid=False
    )
    op.create_table('viewer_voice',
    sa.Column('token', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('kind', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('viewer', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('opened', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('token'),
    sqlite_with_rowid=False
    )
    with op.batch_alter_table('viewer_voice', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_viewer_voice_kind'), ['kind'], unique=False)


def downgrade() -> None:
    op.drop_table('viewer_voice')
    op.drop_table('viewer_answer')
    op.drop_table('viewer_memory')

"""PACS that send to the receiver (C-MOVE), and what is expected of them

Revision: 0026, after 0025
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0026'
down_revision = '0025'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('pacs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('moves', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table('pacs_expectation',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('fetch_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('pacs_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('message_id', sa.Integer(), nullable=False),
    sa.Column('number_hash', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('birth_date_hash', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('study_hash', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('announced', sa.LargeBinary(), nullable=False),
    sa.Column('files_left', sa.Integer(), nullable=False),
    sa.Column('bytes_left', sa.BigInteger(), nullable=False),
    sa.Column('proof', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('items_count', sa.Integer(), nullable=False),
    sa.Column('known_count', sa.Integer(), nullable=False),
    sa.Column('refused_count', sa.Integer(), nullable=False),
    sa.Column('wrong_count', sa.Integer(), nullable=False),
    sa.Column('refused_total', sa.Integer(), nullable=False),
    sa.Column('bytes_count', sa.BigInteger(), nullable=False),
    sa.Column('stopped_by', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('expires_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.ForeignKeyConstraint(['fetch_id'], ['pacs_fetch.id'], ),
    sa.ForeignKeyConstraint(['pacs_id'], ['pacs.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('fetch_id'),
    sa.UniqueConstraint('pacs_id', 'message_id')
    )
    with op.batch_alter_table('pacs_expectation', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_pacs_expectation_pacs_id'), ['pacs_id'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('pacs_expectation', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_pacs_expectation_pacs_id'))
    op.drop_table('pacs_expectation')
    with op.batch_alter_table('pacs', schema=None) as batch_op:
        batch_op.drop_column('moves')

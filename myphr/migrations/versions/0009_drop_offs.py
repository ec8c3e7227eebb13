"""Drop-offs: what a patient lets a provider send into her record

Revision: 0009, after 0008
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('drop_off',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed_name', sa.LargeBinary(), nullable=False),
    sa.Column('token_sha256', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('ae_title', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('files_max', sa.Integer(), nullable=False),
    sa.Column('bytes_max', sa.BigInteger(), nullable=False),
    sa.Column('files_count', sa.Integer(), nullable=False),
    sa.Column('bytes_count', sa.BigInteger(), nullable=False),
    sa.Column('expires_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('changed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('last_file_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('ae_title'),
    sa.UniqueConstraint('token_sha256')
    )
    with op.batch_alter_table('drop_off', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_drop_off_account_id'), ['account_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_drop_off_state'), ['state'], unique=False)


def downgrade() -> None:
    op.drop_table('drop_off')

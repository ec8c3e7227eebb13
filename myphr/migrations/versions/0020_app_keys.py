"""App keys: what an app of the patient's own may read

Revision: 0020, after 0019
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0020'
down_revision = '0019'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('app_key',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed_name', sa.LargeBinary(), nullable=False),
    sa.Column('token_sha256', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('expires_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('changed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('last_used_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('token_sha256')
    )
    with op.batch_alter_table('app_key', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_app_key_account_id'), ['account_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_app_key_state'), ['state'], unique=False)
    op.create_table('app_key_study',
    sa.Column('app_key_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('study_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('wrapped_deks', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['app_key_id'], ['app_key.id'], ),
    sa.ForeignKeyConstraint(['study_id'], ['study.id'], ),
    sa.PrimaryKeyConstraint('app_key_id', 'study_id')
    )


def downgrade() -> None:
    op.drop_table('app_key_study')
    op.drop_table('app_key')

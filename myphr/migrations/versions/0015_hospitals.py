"""Hospitals' FHIR servers, and fetches from them

Revision: 0015, after 0014
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0015'
down_revision = '0014'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('fhir_server',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('name', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('base', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('client_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('authorization_origin', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('token_origin', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('closed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('fhir_fetch',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state_sha256', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed_for_owner', sa.LargeBinary(), nullable=False),
    sa.Column('sealed_for_worker', sa.LargeBinary(), nullable=True),
    sa.Column('sealed_notes', sa.LargeBinary(), nullable=True),
    sa.Column('step', sa.Integer(), nullable=False),
    sa.Column('steps_left', sa.Integer(), nullable=False),
    sa.Column('items_count', sa.Integer(), nullable=False),
    sa.Column('bytes_count', sa.BigInteger(), nullable=False),
    sa.Column('entries_new', sa.Integer(), nullable=False),
    sa.Column('entries_changed', sa.Integer(), nullable=False),
    sa.Column('entries_known', sa.Integer(), nullable=False),
    sa.Column('error_code', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('changed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('state_sha256')
    )
    with op.batch_alter_table('fhir_fetch', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_fhir_fetch_account_id'), ['account_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_fhir_fetch_state'), ['state'], unique=False)


def downgrade() -> None:
    op.drop_table('fhir_fetch')
    op.drop_table('fhir_server')

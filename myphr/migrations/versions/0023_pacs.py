"""Providers' PACS, links to patients there, and fetches from them

Revision: 0023, after 0022
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0023'
down_revision = '0022'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('pacs',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('name', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('host', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('port', sa.Integer(), nullable=False),
    sa.Column('called_ae', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('calling_ae', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('tls', sa.Boolean(), nullable=False),
    sa.Column('ca_pem', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('closed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('pacs_link',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('pacs_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('code_sha256', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed_for_owner', sa.LargeBinary(), nullable=False),
    sa.Column('patient_key', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('vouched', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('changed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['pacs_id'], ['pacs.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('code_sha256'),
    sa.UniqueConstraint('patient_key')
    )
    with op.batch_alter_table('pacs_link', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_pacs_link_account_id'), ['account_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_pacs_link_pacs_id'), ['pacs_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_pacs_link_state'), ['state'], unique=False)
    op.create_table('pacs_fetch',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('account_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('link_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('sealed_for_worker', sa.LargeBinary(), nullable=True),
    sa.Column('sealed_list', sa.LargeBinary(), nullable=True),
    sa.Column('step', sa.Integer(), nullable=False),
    sa.Column('studies_count', sa.Integer(), nullable=False),
    sa.Column('studies_done', sa.Integer(), nullable=False),
    sa.Column('files_total', sa.Integer(), nullable=False),
    sa.Column('items_count', sa.Integer(), nullable=False),
    sa.Column('known_count', sa.Integer(), nullable=False),
    sa.Column('refused_count', sa.Integer(), nullable=False),
    sa.Column('missing_count', sa.Integer(), nullable=False),
    sa.Column('bytes_count', sa.BigInteger(), nullable=False),
    sa.Column('error_code', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('changed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['link_id'], ['pacs_link.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('pacs_fetch', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_pacs_fetch_account_id'), ['account_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_pacs_fetch_link_id'), ['link_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_pacs_fetch_state'), ['state'], unique=False)


def downgrade() -> None:
    op.drop_table('pacs_fetch')
    op.drop_table('pacs_link')
    op.drop_table('pacs')

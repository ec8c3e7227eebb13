"""Drop-offs by an emailed link: what its page says, where it was sent, and uploads that belong to one

Revision: 0012, after 0011
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('drop_off', schema=None) as batch_op:
        batch_op.add_column(sa.Column('wrapped_page', sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column('sealed_address', sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column('mail_id', sqlmodel.sql.sqltypes.AutoString(), nullable=True))
        batch_op.add_column(sa.Column('opened_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))
    with op.batch_alter_table('upload', schema=None) as batch_op:
        batch_op.add_column(sa.Column('drop_off_id', sqlmodel.sql.sqltypes.AutoString(), nullable=True))
        batch_op.create_index(batch_op.f('ix_upload_drop_off_id'), ['drop_off_id'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('upload', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_upload_drop_off_id'))
        batch_op.drop_column('drop_off_id')
    with op.batch_alter_table('drop_off', schema=None) as batch_op:
        batch_op.drop_column('opened_at')
        batch_op.drop_column('mail_id')
        batch_op.drop_column('sealed_address')
        batch_op.drop_column('wrapped_page')

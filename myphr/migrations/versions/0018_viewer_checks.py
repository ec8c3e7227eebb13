"""When a viewer last opened a sample of each format

Revision: 0018, after 0017
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0018'
down_revision = '0017'
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.create_table(
        'viewer_check',
        sa.Column('viewer', text(), nullable=False),
        sa.Column('sample', text(), nullable=False),
        sa.Column('template_vmid', sa.Integer(), nullable=False),
        sa.Column('looked_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column('worked_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column('failed_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column('reason', text(), nullable=True),
        sa.PrimaryKeyConstraint('viewer', 'sample'),
    )


def downgrade() -> None:
    op.drop_table('viewer_check')

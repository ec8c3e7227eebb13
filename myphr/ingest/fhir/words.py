"""Which kinds of records are asked for, in which order, and what patients call them. R4 resource types that the SMART
scope `patient/*` covers and that a search by `patient` finds. Pure."""

from collections.abc import Mapping

# First what a doctor asks first: if a server stops halfway, that has come.
KINDS: Mapping[str, str] = {
    "Patient": "Personal details",
    "AllergyIntolerance": "Allergies",
    "Condition": "Diagnoses",
    "MedicationRequest": "Prescriptions",
    "MedicationStatement": "Medicines taken",
    "Immunization": "Vaccinations",
    "Observation": "Results and measurements",
    "DiagnosticReport": "Reports",
    "DocumentReference": "Documents",
    "Procedure": "Operations and procedures",
    "Encounter": "Visits",
    "ImagingStudy": "Lists of scans",
    "CarePlan": "Care plans",
    "CareTeam": "Care teams",
    "Goal": "Goals",
    "Device": "Implants and devices",
    "MedicationDispense": "Medicines handed out",
    "MedicationAdministration": "Medicines given",
    "ServiceRequest": "Referrals and orders",
    "FamilyMemberHistory": "Family history",
    "Specimen": "Samples",
    "Composition": "Summaries",
    "Media": "Pictures",
    "QuestionnaireResponse": "Questionnaires",
    "ClinicalImpression": "Assessments",
    "RiskAssessment": "Risk assessments",
    "NutritionOrder": "Diets",
    "Flag": "Warnings",
    "RelatedPerson": "Relatives",
    "Consent": "Consents",
    "Communication": "Messages",
    "Appointment": "Appointments",
    "Coverage": "Insurance",
    "ExplanationOfBenefit": "Bills of the insurance",
    "Provenance": "Origins",
}
EVERYTHING = "Whole record"
# Servers that want a category with every search for Observations (US Core lets them).
OBSERVATION_CATEGORIES = ("laboratory", "vital-signs", "social-history", "survey", "imaging", "procedure", "exam")


def words_of(kind: str) -> str:
    return KINDS.get(kind) or (EVERYTHING if kind == "Everything" else "Other records")
